"""Compiled code: functions that numba compiles to machine code (compilation.py). Only entries are called by Python.

train.py               entries for training and evaluation
forward_backward.py    forward and backward pass; begins with the legend of the kernels' arguments
attention.py           causal attention and its gradient, for heads that share a vector
wide_head_attention.py the same for larger heads, computed with matrix products
attention_options.py   rope, qk_norm and grouped-query attention: the options that change queries, keys and values
matmul.py              linear layers: one matrix product for forward pass and gradients
pointwise.py           embedding, biases, soft cap, cross-entropy, and their gradients
norms.py               RMSNorm and LayerNorm, and their gradients
activations.py         activation functions and the gate of the MLP, and their gradients
optimizers.py          Adam, SGD, Lion, weight decay, gradient clipping
muon.py                Muon's update of a matrix
decoding.py            entry: decoding with a KV cache
token_sampling.py      entry: sampling a token, bit-identical to inference/sampling.py
python_random.py       entries: Python's random generator, its shuffle and normal numbers
text_sampling.py       entry: sampling texts one after the other, with Python's random generator
bulk_sampling.py       entry: bulk sampling, many texts at once
declaration.py         declaration of kernels: decorators, argument types
simd/                  vectors of 16 lanes for numba
"""
