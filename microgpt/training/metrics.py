"""What is said about a finished run, in numbers."""

import math
from collections.abc import Mapping
from typing import Any


def mean(numbers: list[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None


def bits_per_character(loss: float) -> float:
    """Nats per target token in bits; the end of a document counts as a character, as a line break would."""
    return loss / math.log(2)


def perplexity(loss: float) -> float | None:
    """exp(loss): among how many equally likely tokens the model hesitates. None where it exceeds what a float holds."""
    return math.exp(loss) if loss < 700 else None


def console_line(facts: Mapping[str, Any]) -> str:
    """The last line of a training run, for scripts: `key=value` with booleans in lower case."""
    return " ".join(f"{key}={shown(key, value)}" for key, value in facts.items())


def shown(key: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.2f}" if key.endswith("_per_sec") else f"{value:.6f}"
    return str(value)
