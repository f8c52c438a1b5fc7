"""`python -m microgpt`, the same program as the console script `microgpt`."""

import sys

if __name__ == "__main__":
    try:
        from microgpt.app import main
    except KeyboardInterrupt:  # while the libraries load
        sys.exit(130)
    sys.exit(main())
