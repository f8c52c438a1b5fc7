"""Merge every run.json below outputs/, or other folders, into the tables of results/, and print them.

    python scripts/collect.py
    python scripts/collect.py outputs/sweeps --results-dir results/sweeps

An installed package has it as the command `microgpt-collect`.
"""

import sys

from microgpt.reports.collect import main

if __name__ == "__main__":
    sys.exit(main())
