"""Convert characters to token ids and back.

The sorted characters have the ids 0 .. n-1, followed by the special tokens, if any, and then by the begin-of-sequence
token (BOS), which also ends a document. Special tokens have names but no text, so that no text can contain one.

A masked target (a token that is read but excluded from the loss) is stored in an example as ~id, a negative number.
"""

from collections.abc import Iterable, Sequence

from microgpt.errors import UserError

CHAT_SPECIAL = ("user", "assistant", "end_turn")  # in the order of their ids
MAX_SHOWN_TEXT = 200  # maximum number of characters of the text in an error message
MAX_SHOWN_UNKNOWN = 50  # maximum number of unknown characters in an error message


def mask_target(token: int) -> int:
    """Return the token as a masked target (~id), which is excluded from the loss."""
    return ~token if token >= 0 else token


def token_id(token: int) -> int:
    """Return the id of a token that may be masked."""
    return token if token >= 0 else ~token


def count_targets(example: Sequence[int]) -> int:
    """Return the number of unmasked targets in an example."""
    return sum(token >= 0 for token in example[1:])


class Tokenizer:
    def __init__(self, chars: Sequence[str], special: Sequence[str] = ()):
        self.chars = list(chars)
        self.special = tuple(special)
        self.special_ids = {name: len(self.chars) + i for i, name in enumerate(self.special)}
        self.bos = len(self.chars) + len(self.special)
        self.vocab_size = self.bos + 1
        self.ends = frozenset([self.bos, *self.special_ids.values()])  # tokens that end generation
        self.ids = {char: i for i, char in enumerate(self.chars)}
        self.texts = dict(enumerate(self.chars)) | dict.fromkeys([*self.special_ids.values(), self.bos], "")

    @classmethod
    def of(cls, texts: Iterable[str], special: Sequence[str] = ()) -> "Tokenizer":
        """Return a tokenizer for all characters that occur in the texts."""
        return cls(sorted(set().union(*texts)), special)

    def encode(self, text: str, source: str = "text") -> list[int]:
        """Return the token ids of a text, without BOS. Raises a UserError that lists the unknown characters."""
        try:
            return [self.ids[char] for char in text]
        except KeyError:
            unknown = [repr(char) for char in dict.fromkeys(text) if char not in self.ids]
            named = " ".join(unknown[:MAX_SHOWN_UNKNOWN])
            if len(unknown) > MAX_SHOWN_UNKNOWN:
                named += f" and {len(unknown) - MAX_SHOWN_UNKNOWN} more"
            shown = repr(text[:MAX_SHOWN_TEXT]) + "..." * (len(text) > MAX_SHOWN_TEXT)
            known = "".join(self.chars)
            raise UserError(
                f"{source}={shown} has characters that the model does not know: {named} (it knows {known!r})"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; BOS and special tokens add nothing. Raises KeyError for an unknown id."""
        return "".join([self.texts[i] for i in ids])
