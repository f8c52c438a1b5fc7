"""The contract that every engine keeps, and the plain data that crosses it. Knows nothing of files or configuration.

An engine holds R >= 1 models of one shape (R = 1 for a single run) and trains them side by side. All arrays have a
leading R axis. What an engine computes is defined by the scalar engine; the others are checked against it.
"""

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
    """Everything that training changes: by tensor name, arrays of shape (R, rows, columns)."""

    parameters: Arrays
    m: Arrays = field(default_factory=dict)  # first moments (adam, adamw) or momentum (sgd)
    v: Arrays = field(default_factory=dict)  # second moments; empty for sgd

    @classmethod
    def together(cls, states: Sequence["EngineState"]) -> "EngineState":
        """The models of several states as one; moments that some lack begin at zero."""
        first = states[0].parameters

        def stacked(parts: list[Arrays]) -> Arrays:
            if not any(parts):
                return {}
            shapes = [{name: state.parameters[name].shape for name in first} for state in states]
            return {
                name: np.concatenate(
                    [part[name] if part else np.zeros(shape[name]) for part, shape in zip(parts, shapes, strict=True)]
                )
                for name in first
            }

        return cls(
            stacked([state.parameters for state in states]),
            stacked([state.m for state in states]),
            stacked([state.v for state in states]),
        )

    def of(self, replica: int) -> "EngineState":
        """One model of them, R = 1."""
        one = slice(replica, replica + 1)
        parts = [{name: a[one] for name, a in part.items()} for part in (self.parameters, self.m, self.v)]
        return EngineState(*parts)

    def is_finite(self) -> bool:
        return all(np.isfinite(a).all() for part in (self.parameters, self.m, self.v) for a in part.values())


@dataclass(frozen=True)
class EngineInfo:
    """What every run reports about where it ran."""

    backend: str  # python | native | torch
    device: str  # cpu | cuda | mps
    using_gpu: bool
    dtype: str  # float32 | float64 | bfloat16
    kernel: str  # which of an engine's ways to compute: `features`, `eager`, ...
    threads: int  # how many CPU threads it may use
    reason: str = ""  # why this backend and kernel, where the engine chose
    processes: int = 1  # which compute it together


@dataclass(frozen=True)
class Workload:
    """What to train on: the examples that all models share, and for each model the order in which it meets them."""

    examples: Sequence[Tokens]  # token ids; an example of n + 1 tokens has n targets, less those not asked for (~id)
    orders: Sequence[BatchOrder]  # R of them

    @cached_property
    def packed(self) -> Examples:
        return Examples.of(self.examples)

    def packed_alone(self) -> "Workload":
        """The same in arrays alone, to be sent to another process."""
        return Workload(self.packed, self.orders)

    def target_tokens(self, begin: int, end: int, replica: int) -> np.ndarray:
        """How many tokens a model is asked to predict in each step from `begin` to before `end`: (end - begin,)."""
        return self.packed.targets[self.orders[replica].indices(begin, end)].sum(axis=1)


Implementation = TypeVar("Implementation")


def implementation(found: Mapping[str, Implementation], key: str, name: str, place: str) -> Implementation:
    """Return an engine's implementation of key=name. Raises UserError with the table to extend if there is none."""
    if name not in found:
        raise UserError(f"{key}={name} is not implemented by this engine: add it to {place}")
    return found[name]


class Decoder(Protocol):
    """One model reading one text, with the keys and values of earlier tokens kept."""

    def feed(self, token: int) -> list[float]:
        """Append a token; return the logits (V,) of the next one. At most block_size tokens fit."""
        ...


class BatchDecoder(Protocol):
    """One model reading many texts, each in a slot of its own that keeps the keys and values of its earlier tokens."""

    rows: int  # the most tokens of one pass

    def feed(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
        """Read a token in each row: of which slot, at which position, which token; returns logits (rows, V).

        Several rows of one slot are consecutive positions in their order. A text begins anew with position 0. A row's
        logits do not depend on the others: bit for bit they are those of a decoder that reads one token at a time.
        The array is overwritten by the next call.
        """
        ...


@runtime_checkable
class DecodesBatches(Protocol):
    """What an engine may have beyond the contract, where it pays: a decoder of many texts at once."""

    def batch_decoder(self, replica: int, slots: int) -> BatchDecoder: ...


class Engine(Protocol):
    info: EngineInfo
    compile_seconds: float  # spent so far on compiling, which is no part of any rate

    def load(self, state: EngineState) -> None:
        """Take up parameters and moments; moments that are missing start at zero."""
        ...

    def state(self) -> EngineState:
        """A copy of parameters and moments."""
        ...

    def advance(self, step: int, learning_rates: np.ndarray) -> np.ndarray:
        """Train k steps from `step` on (counted from 0); learning_rates (k, R) -> mean loss per target token (k, R).

        A step whose loss is not finite changes nothing, and nothing follows it: its remaining losses are NaN.
        """
        ...

    def evaluate(self, examples: Sequence[Tokens]) -> np.ndarray:
        """Mean loss in nats per target token over all examples: (R,)."""
        ...

    def decoder(self, replica: int) -> Decoder: ...


@dataclass(frozen=True)
class Draws:
    """Texts that were drawn at once."""

    drawn: np.ndarray  # (count, room) token ids without prompt and end
    lengths: np.ndarray  # (count,) how many of them belong to each text
    tokens: int  # how many were chosen, ends included

    @property
    def texts(self) -> list[list[int]]:
        return [text[:length] for text, length in zip(self.drawn.tolist(), self.lengths.tolist(), strict=True)]


@runtime_checkable
class BulkSampler(Protocol):
    """What an engine may have beyond the contract: a sampler of its own for very many texts."""

    def draw(
        self,
        replica: int,
        prompt: Tokens,
        count: int,
        room: int,
        temperature: float,
        top_k: int | None,
        seed: int,
        first: int = 0,
    ) -> Draws:
        """The texts number `first` to first + count - 1 of a seed's endless series, each of at most `room` tokens.

        Each goes on from `prompt` (BOS first) until BOS is chosen or its room is full; prompt and room together fit the
        block. What a text is does not depend on which others are drawn with it. Raises NonFiniteError for logits that
        are not numbers.
        """
        ...
