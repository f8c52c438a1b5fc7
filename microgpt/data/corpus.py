"""From a text to examples: documents, the split by distinct document, tokens cut to the block. Knows nothing of models.

An example is a list of n + 1 token ids with n >= 1 targets, each token but the last predicting its successor. Of a
conversation some are not asked for (examples.py).
"""

import io
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from typing import TYPE_CHECKING, TypeVar

from microgpt.data.sources import Source
from microgpt.data.tokenizer import Tokenizer, targets_of
from microgpt.errors import UserError

if TYPE_CHECKING:
    from microgpt.data.examples import Examples

LONG_DOCUMENTS = ("truncate", "window", "skip")
FORMATS = ("lines", "stream")

Example = list[int]
Document = TypeVar("Document", bound=Hashable)  # a text, or a conversation


@dataclass(frozen=True)
class Cut:
    """How documents become examples."""

    block_size: int  # the most targets of an example
    long_documents: str  # truncate: keep the head; window: as many examples as it takes; skip: leave the document out
    closed: bool = True  # a document ends with BOS; a piece of a stream does not end


@dataclass(frozen=True)
class Part:
    """One side of a split."""

    documents: int
    examples: list[Example]
    ends: list[int]  # for each document, how many examples there are up to its end

    def head(self, documents: int | None) -> list[Example]:
        """The examples of the first documents, or of all of them."""
        if documents is None or documents >= self.documents:
            return self.examples
        return self.examples[: self.ends[documents - 1]]

    @cached_property
    def tokens(self) -> int:
        """Number of target tokens."""
        return sum(map(targets_of, self.examples))


@dataclass(frozen=True)
class Corpus:
    """Everything that a run reads: the corpus proper and the documents that the style mixes in, each split alike."""

    source: Source
    tokenizer: Tokenizer
    documents: int
    train: Part
    val: Part
    style_train: Part
    style_val: Part
    long_documents: int  # how many documents of the corpus are longer than the block
    conversations: dict[str, int] | None = None  # of a chat: how many were skipped, trimmed, truncated
    questions: tuple[str, ...] = ()  # of a chat: how the users of held-out conversations begin

    @cached_property
    def examples(self) -> "Examples":
        """What can be trained on: the corpus's training examples, then the style's."""
        from microgpt.data.examples import Examples  # numpy, which --help starts without

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
    """Read, split, tokenize. Raises UserError when there is too little to train on or to validate with."""
    text = io.StringIO(source.text, newline=None).read()  # every kind of line end as \n
    if text_format == "stream":
        documents = [text[i : i + block_size] for i in range(0, len(text), block_size)]
    else:
        documents = [line.strip() for line in text.split("\n") if line.strip()]
    tokenizer = Tokenizer.of([*documents, *style_documents])
    cut = Cut(block_size, long_documents, closed=text_format == "lines")
    style_cut = Cut(block_size, style_long_documents)

    train, val = split(documents, val_fraction, split_seed)
    refuse_too_small(source.origin, documents, train, val, val_fraction, "document")
    # A style's document that the corpus has too is on the corpus's side of the split.
    known, held_out = set(documents), set(val)
    in_train = known - held_out
    style_train, style_val = split([d for d in style_documents if d not in known], val_fraction, split_seed)
    style_train += [document for document in style_documents if document in in_train]
    style_val += [document for document in style_documents if document in held_out]
    corpus = Corpus(
        source=source,
        tokenizer=tokenizer,
        documents=len(documents),
        train=encode_part(train, tokenizer, cut),
        val=encode_part(val, tokenizer, cut),
        style_train=encode_part(style_train, tokenizer, style_cut),
        style_val=encode_part(style_val, tokenizer, style_cut),
        long_documents=sum(is_long(document, cut) for document in documents),
    )
    for name, key, part in (
        ("train on", "data.long_documents", corpus.train),
        ("validate with", "data.long_documents", corpus.val),
        ("mix in", "style.long_documents", corpus.style_train),
    ):
        if part.documents and not part.examples:
            raise UserError(
                f"{key}=skip leaves nothing to {name}: all {part.documents} documents of that part are longer than "
                f"model.block_size={block_size} allows"
            )
    return corpus


def refuse_too_small(
    origin: str, documents: Sequence[Document], train: Sequence[Document], val: Sequence[Document],
    val_fraction: float, called: str,
) -> None:  # fmt: skip
    """Raises UserError where a side of the split is empty that must not be."""
    if train and (val or val_fraction == 0):
        return
    distinct = len(set(documents))
    raise UserError(
        f"{origin} is too small to split: {distinct} distinct {called}{'s' * (distinct != 1)}, of which "
        f"data.val_fraction={val_fraction} must leave at least one to train on and one to validate with"
    )


def split(documents: Sequence[Document], val_fraction: float, seed: int) -> tuple[list[Document], list[Document]]:
    """Train and validation documents, split by distinct document: every copy of a document is on one side.

    The training side keeps the order of the source. The validation side is in random order, so that its first n
    documents are a fair sample of it. The nearest whole number of distinct documents to the fraction is held out.
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


def is_long(document: str, cut: Cut) -> bool:
    return len(document) + cut.closed > cut.block_size


def encode_part(documents: Sequence[str], tokenizer: Tokenizer, cut: Cut) -> Part:
    pieces = [encode_document(text, tokenizer, cut) for text in documents]
    return Part(len(documents), list(chain.from_iterable(pieces)), list(accumulate(map(len, pieces))))


def encode_document(text: str, tokenizer: Tokenizer, cut: Cut) -> list[Example]:
    """[BOS] + characters + [BOS], cut so that each example has at most block_size targets.

    Neighbouring windows share one token, the last target of one and the first input of the next: every token of the
    document is a target exactly once.
    """
    tokens = [tokenizer.bos, *tokenizer.encode(text)] + [tokenizer.bos] * cut.closed
    if not is_long(text, cut):
        return [tokens]
    if cut.long_documents == "skip":
        return []
    if cut.long_documents == "truncate":
        return [tokens[: cut.block_size + 1]]
    return [tokens[i : i + cut.block_size + 1] for i in range(0, len(tokens) - 1, cut.block_size)]
