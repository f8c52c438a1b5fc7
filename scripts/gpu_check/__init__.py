"""Checks and measurements of the torch engine on a GPU, in parts with time limits; scripts/gpu_check.sh starts them."""
