"""Characters to token ids and back.

The sorted characters are ids 0 .. n-1, then come the special tokens, if any, and last the begin-of-sequence token
(BOS), which also ends a document. Special tokens are written by name, never as text: no text can forge one.

A token that is to be read, but whose prediction is not asked for, stands in an example as ~id, a negative number: what
a user said in a chat, for one. So a mask travels wherever the tokens do.
"""

from collections.abc import Iterable, Sequence

from microgpt.errors import UserError

CHAT_SPECIAL = ("user", "assistant", "end_turn")  # in the order of their ids
SHOWN_TEXT = 200  # characters of a refused text that its error repeats
SHOWN_UNKNOWN = 50  # unknown characters that an error names


def unasked(token: int) -> int:
    """A token as it stands where its prediction is not asked for."""
    return ~token if token >= 0 else token


def id_of(token: int) -> int:
    """The id of a token, asked for or not."""
    return token if token >= 0 else ~token


def targets_of(example: Sequence[int]) -> int:
    """How many predictions an example asks for."""
    return sum(token >= 0 for token in example[1:])


class Tokenizer:
    def __init__(self, chars: Sequence[str], special: Sequence[str] = ()):
        self.chars = list(chars)
        self.special = tuple(special)
        self.special_ids = {name: len(self.chars) + i for i, name in enumerate(self.special)}
        self.bos = len(self.chars) + len(self.special)
        self.vocab_size = self.bos + 1
        self.ends = frozenset([self.bos, *self.special_ids.values()])  # what ends a text that is being generated
        self.ids = {char: i for i, char in enumerate(self.chars)}
        self.texts = dict(enumerate(self.chars)) | dict.fromkeys([*self.special_ids.values(), self.bos], "")

    @classmethod
    def of(cls, texts: Iterable[str], special: Sequence[str] = ()) -> "Tokenizer":
        """The tokenizer of all characters that occur in the texts."""
        return cls(sorted(set().union(*texts)), special)

    def encode(self, text: str, source: str = "text") -> list[int]:
        """Token ids of a text, without BOS. Raises UserError naming the characters that the vocabulary lacks."""
        try:
            return [self.ids[char] for char in text]
        except KeyError:
            unknown = [repr(char) for char in dict.fromkeys(text) if char not in self.ids]
            named = " ".join(unknown[:SHOWN_UNKNOWN])
            if len(unknown) > SHOWN_UNKNOWN:
                named += f" and {len(unknown) - SHOWN_UNKNOWN} more"
            shown = repr(text[:SHOWN_TEXT]) + "..." * (len(text) > SHOWN_TEXT)
            known = "".join(self.chars)
            raise UserError(
                f"{source}={shown} has characters that the model does not know: {named} (it knows {known!r})"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; BOS and special tokens have no text. Raises KeyError for what is no id."""
        return "".join([self.texts[i] for i in ids])
