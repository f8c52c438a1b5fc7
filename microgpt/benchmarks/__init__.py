"""Benchmarks of the engines: the reference workload, and the measurements of task=benchmark."""
