"""Checks and measurements of the PyTorch engine on a GPU, in parts with time limits; started by gpu_check.sh."""
