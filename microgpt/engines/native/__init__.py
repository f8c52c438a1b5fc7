"""The native engine: compiled kernels on the CPU, written with numba. In reading order:

engine.py           NativeEngine, the contract of engines/base.py: training steps, evaluation, threads
forward_backward.py forward and backward pass; opens with the legend of the kernels' arguments
attention.py        causal attention and its gradient
matmul.py           linear layers: one matrix product for forward pass and gradients
pointwise.py        embedding, RMSNorm, activation functions, cross-entropy, and their gradients
optimizers.py       Adam, SGD, weight decay, gradient clipping
train_kernels.py    what Python calls: k training steps of several models, the loss of a part of a batch
kv_cache.py         decoding with a KV cache
bulk_sampling.py    bulk sampling, many texts at once
weights.py          weights and moments of R models, from and to tensors
layout.py           where everything is in the flat arrays: sizes, offsets, padding
compilation.py      compilation, once for each float type, kept on disk
simd/               vectors of 16 lanes for numba
"""
