"""The comparison with microgpt.py, nanoGPT and nanochat; scripts/benchmark_karpathy.py runs it."""
