"""The program on given arguments in this process."""

from microgpt.app import execute
from microgpt.sweeps.lifecycle import new_sweep


def microgpt(*arguments: str) -> None:
    """Run the program. Raises its errors; those of a sweep's jobs are printed."""
    with new_sweep():
        execute(arguments)
