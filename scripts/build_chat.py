"""Rebuild microgpt/data/chat.jsonl.gz, the bundled chat data set, from scripts/chat_generator/.

    python scripts/build_chat.py             # writes microgpt/data/chat.jsonl.gz
    python scripts/build_chat.py --check     # compares the file with a new build; exit code 1 if they differ
    python scripts/build_chat.py --print     # writes the conversations to standard output

The same seed gives the same conversations on every machine.
"""

import sys
from collections import Counter
from pathlib import Path

import harness
from chat_generator.conversations import as_line, build, tokens

TARGET = Path(__file__).parents[1] / "microgpt" / "data" / "chat.jsonl.gz"


def main(arguments: list[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--check", action="store_true", help=harness.CHECK)
    parser.add_argument("--print", action="store_true", help="only write the conversations to standard output")
    options = parser.parse_args(arguments)
    kinds = build()
    text = "".join(map(as_line, kinds))
    if options.print:
        sys.stdout.write(text)
        return 0
    counts = [f"{count:6} {kind}" for kind, count in Counter(kinds.values()).most_common()]
    total = f"{len(kinds):6} conversations, {sum(map(tokens, kinds))} tokens, in {TARGET}"
    return harness.rebuild(TARGET, text, options.check, *counts, total)


if __name__ == "__main__":
    sys.exit(main())
