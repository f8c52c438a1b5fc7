"""Merge every run.json below outputs/ (or the folders given) into the tables of results/, and print them.

python scripts/collect.py
python scripts/collect.py outputs/sweeps --results-dir results/sweeps
"""

import argparse
import sys
from pathlib import Path

from microgpt.errors import MicrogptError
from microgpt.reports.collect import collect_and_print


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path("outputs")], help="where to look for runs")
    parser.add_argument("--results-dir", type=Path, default=Path("results"), help="where the tables go")
    arguments = parser.parse_args()
    try:
        collect_and_print(arguments.folders, arguments.results_dir)
    except MicrogptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
