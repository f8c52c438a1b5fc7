"""Measurements of the engines for task=benchmark: micro-benchmarks (micro.py), training and sampling (engines.py)."""
