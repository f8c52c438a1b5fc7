"""The interface of all engines, and the data passed to and from them.

An engine holds R >= 1 replicas, which are models of the same shape (R = 1 for a single run), and trains them side by
side. All arrays have a leading axis R. The scalar engine defines the results; the other engines are tested against it.
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
    """The weights and the optimizer's moments, keyed by tensor name, as arrays of shape (R, rows, columns)."""

    parameters: Arrays
    m: Arrays = field(default_factory=dict)  # first moments; the momentum of sgd
    v: Arrays = field(default_factory=dict)  # second moments; empty for an optimizer that has none

    @property
    def replicas(self) -> int:
        return len(next(iter(self.parameters.values())))

    @classmethod
    def stack(cls, states: Sequence["EngineState"]) -> "EngineState":
        """Combine the replicas of several states in one state; moments that some states lack start at zero."""

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
        """Return the state of one replica (R = 1)."""
        one = slice(replica, replica + 1)
        parts = [{name: a[one] for name, a in part.items()} for part in (self.parameters, self.m, self.v)]
        return EngineState(*parts)

    def alone(self) -> "EngineState":
        """Return the state with copied arrays, because a view of one replica keeps all replicas in memory."""

        def own(array: np.ndarray) -> np.ndarray:
            return array.copy() if array.base is not None and array.base.size > array.size else array

        parts = [{name: own(a) for name, a in part.items()} for part in (self.parameters, self.m, self.v)]
        return EngineState(*parts)

    def is_finite(self) -> np.ndarray:
        """Return whether all weights and moments of each replica are finite: (R,)."""
        arrays = [a for part in (self.parameters, self.m, self.v) for a in part.values()]
        return np.logical_and.reduce([np.isfinite(a).all(axis=(1, 2)) for a in arrays])


@dataclass(frozen=True)
class EngineInfo:
    """The backend, device and settings with which an engine computes; part of every run's record."""

    backend: str
    device: str
    using_gpu: bool
    dtype: str
    kernel: str  # graph | features | eager | compiled | cuda_graph | compiled_cuda_graph
    threads: int  # maximum number of CPU threads
    reason: str = ""  # why backend=auto selected this backend
    processes: int = 1  # the world size


@dataclass(frozen=True)
class Workload:
    """The examples that all replicas train on, and the order in which each replica reads the examples."""

    examples: Sequence[Tokens]  # token ids; an example of n + 1 tokens has n targets minus the masked ones (~id)
    orders: Sequence[BatchOrder]  # one for each replica

    @cached_property
    def packed(self) -> Examples:
        return Examples.of(self.examples)

    def target_tokens(self, begin: int, end: int, replica: int) -> np.ndarray:
        """Return a replica's number of unmasked targets in each of the steps begin .. end - 1: (end - begin,)."""
        return self.packed.targets[self.orders[replica].indices(begin, end)].sum(axis=1)


Implementation = TypeVar("Implementation")


def implementation(found: Mapping[str, Implementation], key: str, name: str, place: str) -> Implementation:
    """Return an engine's implementation of key=name. If there is none, raises a UserError that names the table."""
    if name not in found:
        raise UserError(f"{key}={name} is not implemented by this engine: add it to {place}")
    return found[name]


class Decoder(Protocol):
    """Decodes one text with one model, and caches the keys and values of earlier tokens."""

    def feed(self, token: int) -> list[float]:
        """Append a token and return the logits (V,) of the next token. At most block_size tokens can be appended."""
        ...


class BatchDecoder(Protocol):
    """Decodes many texts with one model; each text has its own slot in the KV cache."""

    rows: int  # maximum number of tokens in one pass

    def feed(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """Read one token per row, given by slot, position and token id, and return the logits (rows, V).

        Rows with the same slot must have consecutive positions in order; position 0 starts a new text. The logits of a
        row do not depend on the other rows and equal those of a `Decoder` bit for bit. The next call overwrites the
        returned array.
        """
        ...


@dataclass(frozen=True)
class Choices:
    """The tokens sampled for some rows of a pass."""

    tokens: list[int]  # -1: the row has a non-finite logit
    probs: np.ndarray  # (rows, V), float64: the probabilities from which the tokens were sampled


@runtime_checkable
class ChoosesTokens(Protocol):
    """Optional interface of a batch decoder that can also sample from the logits of its last pass."""

    def choose(
        self,
        rows: Sequence[int],
        uniforms: Sequence[float],
        temperatures: Sequence[float],
        top_k: Sequence[int | None],
    ) -> Choices:
        """Sample a token for each of these rows, given a random number in [0, 1), a temperature and a top_k per row.

        Temperature 0 selects the largest logit; top_k None keeps all tokens. The result equals bit for bit that of
        inference/sampling.py and `random.choices` with the same random number.
        """
        ...


@runtime_checkable
class DecodesBatches(Protocol):
    """Optional interface of an engine that can decode many texts at once."""

    def batch_decoder(self, replica: int, slots: int) -> BatchDecoder: ...


class Engine(Protocol):
    info: EngineInfo
    compile_seconds: float  # time spent on compiling so far; not included in any rate

    def load(self, state: EngineState) -> None:
        """Replace parameters and moments; moments that the state lacks start at zero."""
        ...

    def state(self) -> EngineState:
        """Return a copy of parameters and moments."""
        ...

    def advance(self, step: int, learning_rates: np.ndarray) -> np.ndarray:
        """Train k steps from `step` on (counted from 0): learning_rates (k, R) -> mean losses per target token (k, R).

        A step with a non-finite loss changes nothing and ends the training of its replica, whose remaining losses are
        NaN.
        """
        ...

    def evaluate(self, examples: Sequence[Tokens]) -> np.ndarray:
        """Return the mean loss in nats per target token over all examples: (R,)."""
        ...

    def decoder(self, replica: int) -> Decoder: ...


@dataclass(frozen=True)
class BulkRequest:
    """A request for the texts first .. first + count - 1 of the infinite sequence of texts that a seed determines."""

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

    drawn: np.ndarray  # (count, room): token ids without prompt and end-of-text token
    lengths: np.ndarray  # (count,): number of token ids of each text
    tokens: int  # number of sampled tokens, including end-of-text tokens

    @property
    def texts(self) -> list[list[int]]:
        return [text[:length] for text, length in zip(self.drawn.tolist(), self.lengths.tolist(), strict=True)]


@runtime_checkable
class BulkSampler(Protocol):
    """Optional interface of an engine that samples many texts, up to millions, in one call."""

    def draw(self, replica: int, request: BulkRequest) -> Draws:
        """Continue the prompt in every text until BOS is sampled or the room is full.

        A text does not depend on the other texts sampled in the same call. Raises NonFiniteError for NaN logits.
        """
        ...


@dataclass(frozen=True)
class TokenKinds:
    """Properties of each token id, as 1 or 0: int64 (V,)."""

    is_end: np.ndarray  # whether the token ends a text
    has_text: np.ndarray  # whether the token is a character
    is_word: np.ndarray  # whether the token is a letter or a digit


@dataclass(frozen=True)
class TextRequest:
    """A request for texts sampled one after the other, as in inference/generation.py."""

    prompts: Sequence[Tokens]  # for each text: token ids, BOS first
    max_new_tokens: int | None  # None, or more tokens than fit: until the block is full
    temperature: float
    top_k: int | None
    tokens: TokenKinds
    phrases: Sequence[Tokens] = ()  # token ids; -1 for a character that the vocabulary lacks
    bias: float = 0.0  # added to the logit of each token that begins or continues a phrase


@runtime_checkable
class TextSampler(Protocol):
    """Optional interface of an engine that samples texts with Python's random generator in compiled code."""

    def sample(self, replica: int, request: TextRequest, rng: random.Random) -> list[list[int]]:
        """Return the token ids of each text, without prompt and end token. Raises NonFiniteError for NaN logits."""
        ...
