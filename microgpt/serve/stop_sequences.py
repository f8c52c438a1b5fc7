"""A text that ends before certain strings, told piece by piece: what may begin one of them is held back."""

from collections.abc import Sequence


class Stops:
    def __init__(self, stops: Sequence[str]):
        self.stops = [stop for stop in stops if stop]
        self.held = ""

    def show(self, piece: str) -> tuple[str, bool]:
        """What can be shown now that `piece` has been added, and whether a stop has been met, before which it ends."""
        self.held += piece
        if not self.stops:
            return self.rest(), False
        found = [(self.held.find(stop) + len(stop), -len(stop)) for stop in self.stops if stop in self.held]
        if found:  # the one that is complete first; of several that end together the longest
            end, negative_length = min(found)
            shown, self.held = self.held[: end + negative_length], ""
            return shown, True
        keep = max(
            (size for stop in self.stops for size in range(1, len(stop)) if self.held.endswith(stop[:size])), default=0
        )
        shown, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return shown, False

    def rest(self) -> str:
        """What was held back of a text that ends here."""
        rest, self.held = self.held, ""
        return rest
