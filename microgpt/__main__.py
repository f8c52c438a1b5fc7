"""Runs the program with `python -m microgpt`, like the console script `microgpt`."""

import sys

if __name__ == "__main__":
    try:
        from microgpt.app import main
    except KeyboardInterrupt:  # raised while the libraries load
        sys.exit(130)
    sys.exit(main())
