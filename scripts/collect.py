"""Collect every run.json in outputs/ or other folders into the tables in results/, and print the tables.

    python scripts/collect.py
    python scripts/collect.py outputs/sweeps --results-dir results/sweeps

In an installed package, this is the command `microgpt-collect`.
"""

import sys

from microgpt.reports.collect import main

if __name__ == "__main__":
    sys.exit(main())
