"""`python -m microgpt`: the same as the console script `microgpt`."""

import sys

from microgpt.app import main

if __name__ == "__main__":
    sys.exit(main())
