"""Convert a text to examples: divide it into documents, split them by distinct document, and cut tokens to the block.

An example is a list of n + 1 token ids with n >= 1 targets: every token except the last predicts its successor.
"""

import io
import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import TYPE_CHECKING, TypeVar

from microgpt.data.sources import Source
from microgpt.data.tokenizer import Tokenizer, count_targets
from microgpt.errors import UserError

if TYPE_CHECKING:
    from microgpt.data.examples import Examples

Example = list[int]
Document = TypeVar("Document", bound=Hashable)  # a string, or a conversation


@dataclass(frozen=True)
class ExampleOptions:
    """How documents are converted to examples."""

    block_size: int  # maximum number of targets in an example
    long_documents: str  # truncate: keep the beginning; window: several examples; skip: drop the document
    closed: bool = True  # whether BOS ends a document; False only for the pieces of a stream


@dataclass(frozen=True)
class Part:
    """The training part or the validation part of a split."""

    documents: int
    examples: list[Example]
    ends: list[int]  # for each document, the number of examples up to its end

    def head(self, documents: int | None) -> list[Example]:
        """Return the examples of the first `documents` documents (None: of all documents)."""
        if documents is None or documents >= self.documents:
            return self.examples
        return self.examples[: self.ends[documents - 1]]

    @cached_property
    def tokens(self) -> int:
        """Number of unmasked target tokens."""
        return sum(map(count_targets, self.examples))


@dataclass(frozen=True)
class Corpus:
    """The data of a run: the corpus and the style's documents, both split in the same way."""

    source: Source
    tokenizer: Tokenizer
    documents: int
    train: Part
    val: Part
    style_train: Part
    style_val: Part
    long_documents: int  # number of documents that are longer than the block
    conversations: dict[str, int] | None = None  # chat only: numbers of skipped, trimmed, truncated conversations
    questions: tuple[str, ...] = ()  # chat only: opening user turns of the validation conversations

    @cached_property
    def examples(self) -> "Examples":
        """The training examples: first those of the corpus, then those of the style."""
        from microgpt.data.examples import Examples  # imports numpy, which --help does not need

        return Examples.of([*self.train.examples, *self.style_train.examples])


def build_corpus(
    source: Source,
    *,
    text_format: str,
    long_documents: str,
    val_fraction: float,
    split_seed: int,
    block_size: int,
    style_documents: Sequence[str] = (),
    style_long_documents: str = "window",
) -> Corpus:
    """Split and tokenize a text. Raises UserError if no documents are left for training or validation."""
    documents = read_documents(source, text_format, block_size)
    tokenizer = Tokenizer.of([*documents, *style_documents])
    options = ExampleOptions(block_size, long_documents, closed=FORMATS[text_format].has_documents)
    style_options = ExampleOptions(block_size, style_long_documents)

    train, val = split(documents, val_fraction, split_seed)
    check_split(source.origin, documents, train, val, val_fraction, "document")
    # If the corpus also contains a style's document, it goes to the same side of the split as in the corpus.
    known, held_out = set(documents), set(val)
    in_train = known - held_out
    style_train, style_val = split([d for d in style_documents if d not in known], val_fraction, split_seed)
    style_train += [document for document in style_documents if document in in_train]
    style_val += [document for document in style_documents if document in held_out]
    corpus = Corpus(
        source=source,
        tokenizer=tokenizer,
        documents=len(documents),
        train=encode_part(train, tokenizer, options),
        val=encode_part(val, tokenizer, options),
        style_train=encode_part(style_train, tokenizer, style_options),
        style_val=encode_part(style_val, tokenizer, style_options),
        long_documents=sum(is_long(document, options) for document in documents),
    )
    for name, key, part in (
        ("train on", "data.long_documents", corpus.train),
        ("validate with", "data.long_documents", corpus.val),
        ("mix in", "style.long_documents", corpus.style_train),
    ):
        if part.documents and not part.examples:
            raise UserError(
                f"{key}=skip leaves no documents to {name}: all {part.documents} are too long for "
                f"model.block_size={block_size}; increase model.block_size"
            )
    return corpus


@dataclass(frozen=True)
class TextFormat:
    """How a text is divided into documents or, for a stream, into pieces of the block size."""

    documents: Callable[[str, int], list[str]]  # (text, block size)
    has_documents: bool = True  # whether the parts are documents, which end with BOS; a stream's pieces do not


FORMATS = {
    "lines": TextFormat(lambda text, block_size: [line.strip() for line in text.split("\n") if line.strip()]),
    "stream": TextFormat(
        lambda text, block_size: [text[i : i + block_size] for i in range(0, len(text), block_size)],
        has_documents=False,
    ),
}


def read_documents(source: Source, text_format: str, block_size: int) -> list[str]:
    """Return the documents of a text, or the pieces of a stream."""
    text = io.StringIO(source.text, newline=None).read()  # normalises line endings
    return FORMATS[text_format].documents(text, block_size)


def check_split(
    origin: str, documents: Sequence[Document], train: Sequence[Document], val: Sequence[Document],
    val_fraction: float, called: str,
) -> None:  # fmt: skip
    """Raise UserError if the training side is empty, or the validation side although val_fraction is not 0."""
    if train and (val or val_fraction == 0):
        return
    distinct = len(set(documents))
    raise UserError(
        f"{origin} is too small to split: {distinct} distinct {called}{'s' * (distinct != 1)}, of which "
        f"data.val_fraction={val_fraction} must leave at least one to train on and one to validate with"
    )


def split(documents: Sequence[Document], val_fraction: float, seed: int) -> tuple[list[Document], list[Document]]:
    """Return training and validation documents, split by distinct document: all copies of one are on the same side.

    The training side keeps the order of the source. The validation side is in random order, so that its first n
    documents are a random sample. round(val_fraction * distinct documents) are held out.
    """
    distinct = list(dict.fromkeys(documents))
    held_out = round(val_fraction * len(distinct))
    if held_out == 0:
        return list(documents), []
    random.Random(seed).shuffle(distinct)
    val = distinct[:held_out]
    copies = Counter(documents)
    chosen = set(val)
    train = [document for document in documents if document not in chosen]
    return train, [document for document in val for _ in range(copies[document])]


def is_long(document: str, options: ExampleOptions) -> bool:
    return len(document) + options.closed > options.block_size


def encode_part(documents: Sequence[str], tokenizer: Tokenizer, options: ExampleOptions) -> Part:
    pieces = [encode_document(text, tokenizer, options) for text in documents]
    return Part(len(documents), list(chain.from_iterable(pieces)), list(accumulate(map(len, pieces))))


def encode_document(text: str, tokenizer: Tokenizer, options: ExampleOptions, name: str = "text") -> list[Example]:
    """Return [BOS] + characters + [BOS], cut to examples of at most block_size targets.

    `name` is the key of the text in the error message about unknown characters.

    Adjacent windows share one token, the last target of the first window and the first input of the second, so that
    every token after the initial BOS is a target exactly once.
    """
    tokens = [tokenizer.bos, *tokenizer.encode(text, name)] + [tokenizer.bos] * options.closed
    return LONG_DOCUMENTS[options.long_documents](tokens, options.block_size) if is_long(text, options) else [tokens]


LONG_DOCUMENTS: dict[str, Callable[[list[int], int], list[Example]]] = {
    "truncate": lambda tokens, block_size: [tokens[: block_size + 1]],
    "window": lambda tokens, block_size: [
        tokens[i : i + block_size + 1] for i in range(0, len(tokens) - 1, block_size)
    ],
    "skip": lambda tokens, block_size: [],
}
