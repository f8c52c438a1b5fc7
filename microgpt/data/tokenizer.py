"""Characters to token ids and back.

The sorted characters are ids 0 .. n-1; the begin-of-sequence token (BOS) is n and also ends a document.
"""

from collections.abc import Iterable, Sequence

from microgpt.errors import UserError


class Tokenizer:
    def __init__(self, chars: Sequence[str]):
        self.chars = list(chars)
        self.bos = len(self.chars)
        self.vocab_size = len(self.chars) + 1
        self.ids = {char: i for i, char in enumerate(self.chars)}

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Tokenizer":
        """The tokenizer of all characters that occur in the texts."""
        return cls(sorted(set().union(*texts)))

    def encode(self, text: str, source: str = "text") -> list[int]:
        """Token ids of a text, without BOS. Raises UserError naming every character that the vocabulary lacks."""
        try:
            return [self.ids[char] for char in text]
        except KeyError:
            unknown = " ".join(repr(char) for char in dict.fromkeys(text) if char not in self.ids)
            known = "".join(self.chars)
            raise UserError(
                f"{source}={text!r} has characters that the model does not know: {unknown} (it knows {known!r})"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; BOS has no text."""
        return "".join(self.chars[i] for i in ids if i != self.bos)
