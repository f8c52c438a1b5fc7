"""Runs the program, with `python -m microgpt` or as the console script `microgpt`."""

import gc
import sys


def main() -> int:
    """Import and run the program; return its exit code."""
    gc.disable()  # collections while the libraries load find nothing, but take a tenth of the time of a short command
    try:
        from microgpt.app import main as run
    except KeyboardInterrupt:
        return 130
    gc.freeze()  # what is imported is never garbage
    gc.enable()
    return run()


if __name__ == "__main__":
    sys.exit(main())
