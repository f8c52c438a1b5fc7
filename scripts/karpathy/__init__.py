"""The comparison with microgpt.py, nanoGPT and nanochat, run by scripts/benchmark_karpathy.py."""
