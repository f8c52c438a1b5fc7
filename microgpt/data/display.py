"""Safe display of texts: characters that would control a terminal are escaped."""

import re
from collections.abc import Sequence

# C0 and C1 controls except tab and line feed, DEL, line and paragraph separators, and the characters that change the
# direction of the following text.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def escaped(text: str) -> str:
    r"""Return the text with control characters escaped, for example as \x1b or \u202e. Tabs and line feeds are kept."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def samples_file(samples: Sequence[str]) -> str:
    """Return the content of samples.txt: one sample per line or, if any contains a line break, each under a heading."""
    shown = list(map(escaped, samples))
    if any("\n" in sample for sample in shown):
        shown = [f"--- sample {number} ---\n{sample}" for number, sample in enumerate(shown, 1)]
    return "".join(f"{sample}\n" for sample in shown)
