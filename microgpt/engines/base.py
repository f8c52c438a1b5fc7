"""The interface of every engine and the data that passes through it.

An engine holds R >= 1 replicas, models of one shape (R = 1 for a single run), and trains them side by side. All arrays
have a leading axis R. The scalar engine defines what an engine computes; the others are tested against it.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from microgpt.data.batches import BatchOrder
from microgpt.data.examples import Examples
from microgpt.errors import UserError

Arrays = dict[str, np.ndarray]
Tokens = Sequence[int]


@dataclass
class EngineState:
    """The weights and the optimizer's moments: by tensor name, arrays of shape (R, rows, columns)."""

    parameters: Arrays
    m: Arrays = field(default_factory=dict)  # first moments; the momentum of sgd
    v: Arrays = field(default_factory=dict)  # second moments; empty for an optimizer without

    @property
    def replicas(self) -> int:
        return len(next(iter(self.parameters.values())))

    @classmethod
    def stack(cls, states: Sequence["EngineState"]) -> "EngineState":
        """Return the replicas of several states as one state; moments that some lack start at zero."""

        def stacked(part: str) -> Arrays:
            parts: list[Arrays] = [getattr(state, part) for state in states]
            if not any(parts):
                return {}
            zeros = [{name: np.zeros_like(a) for name, a in state.parameters.items()} for state in states]
            return {
                name: np.concatenate([(found or zero)[name] for found, zero in zip(parts, zeros, strict=True)])
                for name in zeros[0]
            }

        return cls(*map(stacked, ("parameters", "m", "v")))

    def replica(self, replica: int) -> "EngineState":
        """Return the state of one replica, R = 1."""
        one = slice(replica, replica + 1)
        parts = [{name: a[one] for name, a in part.items()} for part in (self.parameters, self.m, self.v)]
        return EngineState(*parts)

    def alone(self) -> "EngineState":
        """Return the state with arrays of its own: those of one of many replicas keep all of them in memory."""

        def own(array: np.ndarray) -> np.ndarray:
            return array.copy() if array.base is not None and array.base.size > array.size else array

        parts = [{name: own(a) for name, a in part.items()} for part in (self.parameters, self.m, self.v)]
        return EngineState(*parts)

    def is_finite(self) -> np.ndarray:
        """Return whether all numbers of each replica are finite: (R,)."""
        arrays = [a for part in (self.parameters, self.m, self.v) for a in part.values()]
        return np.logical_and.reduce([np.isfinite(a).all(axis=(1, 2)) for a in arrays])


@dataclass(frozen=True)
class EngineInfo:
    """Where and how an engine computes; part of every run's record."""

    backend: str
    device: str
    using_gpu: bool
    dtype: str
    kernel: str  # graph | features | eager | compiled | cuda_graph | compiled_cuda_graph
    threads: int  # CPU threads that it may use
    reason: str = ""  # why backend=auto became this backend
    processes: int = 1  # the world size


@dataclass(frozen=True)
class Workload:
    """The examples that all replicas train on, and the order in which each of them reads the examples."""

    examples: Sequence[Tokens]  # token ids; an example of n + 1 tokens has n targets, less the masked ones (~id)
    orders: Sequence[BatchOrder]  # one for each replica

    @cached_property
    def packed(self) -> Examples:
        return Examples.of(self.examples)

    def target_tokens(self, begin: int, end: int, replica: int) -> np.ndarray:
        """Return the number of unmasked targets of a replica in each of steps begin .. end - 1: (end - begin,)."""
        return self.packed.targets[self.orders[replica].indices(begin, end)].sum(axis=1)


Implementation = TypeVar("Implementation")


def implementation(found: Mapping[str, Implementation], key: str, name: str, place: str) -> Implementation:
    """Return an engine's implementation of key=name. Raises UserError with the table to extend if there is none."""
    if name not in found:
        raise UserError(f"{key}={name} is not implemented by this engine: add it to {place}")
    return found[name]


class Decoder(Protocol):
    """One model reading one text, with the keys and values of earlier tokens cached."""

    def feed(self, token: int) -> list[float]:
        """Append a token, up to block_size of them, and return the logits (V,) of the next one."""
        ...


class BatchDecoder(Protocol):
    """One model reading many texts, each in its own slot of the cache of keys and values."""

    rows: int  # maximum number of tokens in one pass

    def feed(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """Read one token in each row, given by slot, position and token id; return logits (rows, V).

        Rows of the same slot must have consecutive positions, in order; position 0 starts a new text. A row's logits do
        not depend on the other rows: they equal those of a `Decoder` bit for bit. The next call overwrites the array.
        """
        ...


@dataclass(frozen=True)
class Choices:
    """The tokens sampled for some rows of a pass."""

    tokens: list[int]  # -1: the row has a logit that is not finite
    probs: np.ndarray  # (rows, V), float64: the probabilities that they were sampled from


@runtime_checkable
class ChoosesTokens(Protocol):
    """A batch decoder that samples from the logits of its last pass, too; optional."""

    def choose(
        self,
        rows: Sequence[int],
        uniforms: Sequence[float],
        temperatures: Sequence[float],
        top_k: Sequence[int | None],
    ) -> Choices:
        """Sample a token for each of these rows, each with its number in [0, 1), temperature and top_k.

        Temperature 0 takes the largest logit, top_k None keeps all. The result equals that of inference/sampling.py and
        of `random.choices` with the same random number, bit for bit.
        """
        ...


@runtime_checkable
class DecodesBatches(Protocol):
    """An engine with a decoder for many texts at once; optional."""

    def batch_decoder(self, replica: int, slots: int) -> BatchDecoder: ...


class Engine(Protocol):
    info: EngineInfo
    compile_seconds: float  # spent on compiling so far; not part of any rate

    def load(self, state: EngineState) -> None:
        """Replace parameters and moments; moments that the state lacks start at zero."""
        ...

    def state(self) -> EngineState:
        """Return a copy of parameters and moments."""
        ...

    def advance(self, step: int, learning_rates: np.ndarray) -> np.ndarray:
        """Train k steps from `step` on (counted from 0); learning_rates (k, R) -> mean loss per target token (k, R).

        A step with a non-finite loss changes nothing and ends the replica's training: its remaining losses are NaN.
        """
        ...

    def evaluate(self, examples: Sequence[Tokens]) -> np.ndarray:
        """Return the mean loss in nats per target token over all examples: (R,)."""
        ...

    def decoder(self, replica: int) -> Decoder: ...


@dataclass(frozen=True)
class BulkRequest:
    """The texts number first .. first + count - 1 of the infinite series that belongs to a seed."""

    prompt: Tokens  # token ids, BOS first
    count: int
    room: int  # maximum number of tokens after the prompt; prompt and room must fit the block
    temperature: float
    top_k: int | None
    seed: int
    first: int = 0


@dataclass(frozen=True)
class Draws:
    """Texts sampled in one call."""

    drawn: np.ndarray  # (count, room): token ids without prompt and end
    lengths: np.ndarray  # (count,): token ids of each text
    tokens: int  # sampled tokens, end-of-text tokens included

    @property
    def texts(self) -> list[list[int]]:
        return [text[:length] for text, length in zip(self.drawn.tolist(), self.lengths.tolist(), strict=True)]


@runtime_checkable
class BulkSampler(Protocol):
    """Optional interface of an engine that samples many texts, up to millions, in one call."""

    def draw(self, replica: int, request: BulkRequest) -> Draws:
        """Continue the prompt in every text until BOS is sampled or its room is full.

        A text does not depend on which others are sampled with it. Raises NonFiniteError for NaN logits.
        """
        ...


@dataclass(frozen=True)
class TokenKinds:
    """For each token id, 1 or 0: int64 (V,)."""

    is_end: np.ndarray  # whether it ends a text
    has_text: np.ndarray  # whether it is a character
    is_word: np.ndarray  # whether that is a letter or a digit


@dataclass(frozen=True)
class TextRequest:
    """Texts to sample one after the other, as inference/generation.py does."""

    prompts: Sequence[Tokens]  # of each text: token ids, BOS first
    max_new_tokens: int | None  # None, or more than fit: until the block is full
    temperature: float
    top_k: int | None
    tokens: TokenKinds
    phrases: Sequence[Tokens] = ()  # token ids, -1 for a character that the vocabulary lacks
    bias: float = 0.0  # added to the logit of each token that begins or continues a phrase


@runtime_checkable
class TextSampler(Protocol):
    """Optional interface of an engine that samples texts with Python's random generator in compiled code."""

    def sample(self, replica: int, request: TextRequest, rng: random.Random) -> list[list[int]]:
        """Return the token ids of each text, without prompt and end. Raises NonFiniteError for NaN logits."""
        ...
