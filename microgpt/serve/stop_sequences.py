"""Handles stop sequences in streamed text: a possible start of a stop sequence is held back until it is resolved."""

from collections.abc import Sequence


class StopSequences:
    """A filter for one text."""

    def __init__(self, sequences: Sequence[str]):
        self.sequences = [sequence for sequence in sequences if sequence]
        self.held = ""

    def add(self, piece: str) -> tuple[str, bool]:
        """Append a piece. Returns the text to show now, and whether a stop sequence (never shown) is complete."""
        self.held += piece
        if not self.sequences:
            return self.rest(), False
        found = [(self.held.find(one) + len(one), -len(one)) for one in self.sequences if one in self.held]
        if found:  # take the sequence that ends first and, of several that end together, the longest
            end, negative_length = min(found)
            shown, self.held = self.held[: end + negative_length], ""
            return shown, True
        keep = max(
            (size for one in self.sequences for size in range(1, len(one)) if self.held.endswith(one[:size])), default=0
        )
        shown, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return shown, False

    def rest(self) -> str:
        """Return the held-back text at the end of a text."""
        rest, self.held = self.held, ""
        return rest
