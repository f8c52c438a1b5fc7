"""Kinds of command line arguments that several scripts take. Knows no script."""

import argparse


def at_least_1(text: str) -> int:
    """For `type=` of argparse, which tells the mistake with the option's name."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed: it is a whole number of at least 1")
    return int(text)
