"""SIMD code that numba alone cannot express, as functions that kernels call like other functions.

vector.py   the vector type (16 lanes), loads and stores, lane-wise arithmetic
lanes.py    operations between lanes: horizontal sum and maximum, prefix sum, transposition of a block
exp.py      vector exp
tanh_erf.py vector sigmoid, tanh and normal distribution
"""
