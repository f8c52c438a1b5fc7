"""The native engine: compiled kernels on the CPU, written with numba. In reading order:

engine.py           NativeEngine, the contract of engines/base.py: training steps, evaluation, threads
forward_backward.py forward and backward pass; opens with the legend of the kernels' arguments
attention.py        causal attention and its gradient, of heads that share a vector
wide_head_attention.py
                    the same of larger heads, by matrix products
matmul.py           linear layers: one matrix product for forward pass and gradients
pointwise.py        embedding, biases, soft cap, cross-entropy, and their gradients
norms.py            RMSNorm and LayerNorm, and their gradients
activations.py      activation functions and the gate of the MLP, and their gradients
head_options.py     rope, qk_norm and grouped-query attention: what options do to queries, keys and values
optimizer_settings.py
                    an optimizer as kernels take it
optimizers.py       Adam, SGD, Lion, weight decay, gradient clipping
muon.py             Muon's update of a matrix
train_kernels.py    what Python calls: k training steps of several models, the loss of a part of a batch
kv_cache.py         decoding with a KV cache
sampling_kernels.py sampling a token as inference/sampling.py does, bit for bit
python_random.py    Python's random generator and its shuffle
text_sampling.py    texts one after the other, with Python's random generator
bulk_sampling.py    bulk sampling, many texts at once
weights.py          weights and moments of R models, from and to tensors
layout.py           where everything is in the flat arrays: sizes, offsets, padding
kernels.py          declaring a kernel: decorators, the types of its arguments
compilation.py      compilation, once for each float type, in two processes
kernel_cache.py     where the machine code is kept on disk
simd/               vectors of 16 lanes for numba
"""
