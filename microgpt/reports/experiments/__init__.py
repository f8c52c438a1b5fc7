"""The reports of experiments with an analysis of their own: ladders, learning rates, scaling."""
