"""The native engine: compiled kernels on the CPU, written with numba. In reading order:

engine.py             NativeEngine, the interface of engines/base.py: training steps, evaluation, threads
thread_work.py        what threads work on: training steps, arrays of a thread, shares
kernels/              the compiled code; begin with train.py and forward_backward.py
layout.py             the layout of the flat arrays: sizes, offsets, padding; codes of the options in kernels
weights.py            weights and moments of R models, and their conversion from and to tensors
optimizer_settings.py an optimizer's settings in the form that kernels receive
kv_cache.py           the KV cache and the decoders that use it
text_sampling.py      sampling texts one after the other, with Python's random generator
bulk_sampling.py      bulk sampling, many texts at once
python_random.py      the state of Python's random generator in the form that kernels receive
machine_code.py       kernels as functions of Python: loads their machine code, or has it compiled
compilation.py        compilation, once per float type, in two processes
kernel_cache.py       the folder of machine code on disk
"""
