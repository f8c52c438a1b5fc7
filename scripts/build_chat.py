"""Rebuild microgpt/data/chat.jsonl.gz, the bundled chat data set, from scripts/chat_generator/.

    python scripts/build_chat.py             # writes microgpt/data/chat.jsonl.gz
    python scripts/build_chat.py --check     # compares the file with a new build; exit code 1 if they differ
    python scripts/build_chat.py --print     # writes the conversations to standard output

The same seed gives the same conversations on every machine.
"""

import argparse
import gzip
import sys
from collections import Counter
from pathlib import Path

from chat_generator.conversations import as_line, build, tokens

TARGET = Path(__file__).parents[1] / "microgpt" / "data" / "chat.jsonl.gz"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the file differs from a new build"
    )
    parser.add_argument("--print", action="store_true", help="only write the conversations to standard output")
    options = parser.parse_args(arguments)
    kinds = build()
    text = "".join(map(as_line, kinds))
    if options.print:
        sys.stdout.write(text)
        return 0
    if options.check:
        same = gzip.decompress(TARGET.read_bytes()) == text.encode()
        print(f"{TARGET}: {'equal to a new build' if same else 'differs from a new build'}")
        return 0 if same else 1
    TARGET.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    for kind, count in Counter(kinds.values()).most_common():
        print(f"{count:6} {kind}")
    print(f"{len(kinds):6} conversations, {sum(map(tokens, kinds))} tokens, in {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
