"""The native engine: compiled kernels on the CPU, written with numba. In reading order:

engine.py           NativeEngine, the interface of engines/base.py: training steps, evaluation, threads
thread_work.py      what threads work on: training steps, arrays of a thread, shares
forward_backward.py forward and backward pass; begins with the legend of the kernels' arguments
attention.py        causal attention and its gradient, for heads that share a vector
wide_head_attention.py
                    the same for larger heads, computed with matrix products
matmul.py           linear layers: one matrix product for forward pass and gradients
pointwise.py        embedding, biases, soft cap, cross-entropy, and their gradients
norms.py            RMSNorm and LayerNorm, and their gradients
activations.py      activation functions and the gate of the MLP, and their gradients
attention_options.py rope, qk_norm and grouped-query attention: the options that change queries, keys and values
optimizer_settings.py
                    an optimizer's settings in the form that kernels receive
optimizers.py       Adam, SGD, Lion, weight decay, gradient clipping
muon.py             Muon's update of a matrix
train_kernels.py    the kernels called by Python: k training steps of several models, the loss of a part of a batch
kv_cache.py         decoding with a KV cache
sampling_kernels.py sampling a token, bit-identical to inference/sampling.py
python_random.py    Python's random generator and its shuffle
text_sampling.py    sampling texts one after the other, with Python's random generator
bulk_sampling.py    bulk sampling, many texts at once
weights.py          weights and moments of R models, and their conversion from and to tensors
layout.py           the layout of the flat arrays: sizes, offsets, padding
kernels.py          declaration of kernels: decorators, argument types
compilation.py      compilation, once per float type, in two processes
kernel_cache.py     the cache of machine code on disk
simd/               vectors of 16 lanes for numba
"""
