"""Print the embedded chat set as JSONL, and on standard error what is in it.

python scripts/build_chat.py > chat.jsonl
"""

import sys
from collections import Counter

from microgpt.data.lessons import as_line, build, tokens


def main() -> None:
    kinds = build()
    sys.stdout.write("".join(map(as_line, kinds)))
    for kind, count in Counter(kinds.values()).most_common():
        print(f"{count:6} {kind}", file=sys.stderr)
    print(f"{len(kinds):6} conversations, {sum(map(tokens, kinds))} tokens", file=sys.stderr)


if __name__ == "__main__":
    main()
