"""The text that all programs of a comparison train on, split and cut once.

This project (data/corpus.py) determines the split and the order of the examples for a seed. The baselines get files
with the same examples, as far as their readers allow.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from microgpt.data.corpus import Corpus, build_corpus
from microgpt.data.sources import Source, decode_source, read_source
from microgpt.errors import UserError
from microgpt.training.from_config import example_order

VAL_FRACTION, SPLIT_SEED = 0.1, 0  # the defaults of data.val_fraction and data.split_seed


@dataclass(frozen=True)
class Text:
    """A text as lines (one document each), or as one running text in pieces of the block size."""

    corpus: Corpus
    text_format: str  # lines | stream
    eval_documents: int

    @property
    def chars(self) -> list[str]:
        return self.corpus.tokenizer.chars

    @cached_property
    def train(self) -> list[str]:
        """Training documents in the order of the source."""
        return self.decoded(self.corpus.train.examples)

    @cached_property
    def val(self) -> list[str]:
        """The validation documents that are evaluated."""
        return self.decoded(self.corpus.val.head(self.eval_documents))

    def decoded(self, examples: list[list[int]]) -> list[str]:
        bos = self.corpus.tokenizer.bos
        return [self.corpus.tokenizer.decode([t for t in example if t != bos]) for example in examples]

    def order(self, seed: int) -> np.ndarray:
        """Return indices into `train`, in the order in which a seed visits the documents."""
        return example_order(seed, len(self.corpus.train.examples))[0]

    def targets(self, seed: int, batch_size: int) -> np.ndarray:
        """Return the target tokens of each step of one pass over the training documents: (steps,)."""
        lengths = np.array([len(example) - 1 for example in self.corpus.train.examples])[self.order(seed)]
        whole = len(lengths) // batch_size * batch_size
        return lengths[:whole].reshape(-1, batch_size).sum(axis=1)


def read_data(path: str | None) -> Source:
    """Read a file or the bundled names. Raises UserError unless it is ASCII, so that each character is one token."""
    if path is None:
        return read_source("names", None)
    try:
        source = decode_source("text", f"--data={path}", Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"--data={path} cannot be read: {error.strerror}") from error
    if not source.text.isascii():
        raise UserError(f"--data={path} is not plain ASCII: nanochat would divide a character into several tokens")
    return source


def lines_text(source: Source, block_size: int, eval_documents: int) -> Text:
    """Make each line a document; a long one is truncated, as in microgpt.py."""
    return make_text(source, source.text, "lines", block_size, eval_documents)


def stream_text(source: Source, block_size: int, batch_size: int, eval_documents: int) -> Text:
    """Cut one running text into whole pieces; the evaluation uses a whole number of batches of held-out pieces."""
    text = source.text.replace("\r\n", "\n")
    text = text[: len(text) // block_size * block_size]
    held_out = make_text(source, text, "stream", block_size, eval_documents).corpus.val.documents
    whole = min(held_out, eval_documents) // batch_size * batch_size
    if whole == 0:
        raise UserError(
            f"{source.origin} is too short: of {len(text) // block_size} pieces of {block_size} characters "
            f"{held_out} are held out, and a batch has {batch_size}"
        )
    return make_text(source, text, "stream", block_size, whole)


def make_text(source: Source, text: str, text_format: str, block_size: int, eval_documents: int) -> Text:
    corpus = build_corpus(
        Source(source.name, source.origin, source.sha256, text),
        text_format=text_format,
        long_documents="truncate",
        val_fraction=VAL_FRACTION,
        split_seed=SPLIT_SEED,
        block_size=block_size,
    )
    return Text(corpus, text_format, min(eval_documents, corpus.val.documents))
