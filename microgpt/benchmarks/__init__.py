"""Measurements of the engines: the reference work, and what task=benchmark measures with it."""
