"""Measure the effect of style.bias: the fraction of samples that contain a complete phrase of the style.

Trains the default model in a temporary folder, as by `python -m microgpt`, or uses the run in --checkpoint. The samples
are those of `task=sample sample.num_samples=... style.bias=...`. For each bias, the random numbers continue from the
training, so that a command prints the same table each time with the same version of Python.

python scripts/measure_style.py
python scripts/measure_style.py --checkpoint outputs/2026-01-02/08-00-00_abcdef12 --samples 1000 --bias 0 1 2 3
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence

import harness

import microgpt
from microgpt.errors import UserError
from microgpt.inference.generation import phrase_rate

BIASES = [0.0, 2.0, 3.0, 4.0, 5.0]


def share(checkpoint: str, chosen: argparse.Namespace, bias: float) -> float:
    """Return the fraction of samples with a phrase of the checkpoint's style. Raises UserError if it has no phrases."""
    model = microgpt.load(checkpoint, "mode=scalar", {"style.bias": bias})
    if model.is_chat:
        raise UserError(
            f"--checkpoint {checkpoint} is a chat model: phrases can be counted only in texts without a question"
        )
    found = phrase_rate(
        model.generate(n=chosen.samples, temperature=chosen.temperature), model.style.get("phrases", ())
    )
    if found is None:
        raise UserError(f"--checkpoint {checkpoint} has a style without phrases: train it with style=futuristic")
    return found


def measure(chosen: argparse.Namespace) -> None:
    harness.require(chosen, samples=1)
    if not math.isfinite(chosen.temperature) or chosen.temperature < 0:
        raise UserError(f"--temperature {chosen.temperature:g} is not allowed: it must be finite and at least 0")
    if wrong := [bias for bias in chosen.bias if not math.isfinite(bias)]:
        raise UserError(f"--bias {wrong[0]:g} is not allowed: it must be finite")
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = chosen.checkpoint or harness.train(folder, "sample.num_samples=0")
        for bias in chosen.bias:
            shares.append(share(checkpoint, chosen, bias))
            harness.say(f"style.bias={bias:g}: {shares[-1]:.1%}")
    row = ["phrase", *(f"{each:.0%}".replace("%", " %") for each in shares)]
    print(harness.table(["bias", *(f"{bias:g}" for bias in chosen.bias)], [row]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--checkpoint", metavar="RUN", help="folder of a run or checkpoint (default: train one)")
    parser.add_argument("--samples", type=int, default=300, help="number of samples for each bias (300)")
    parser.add_argument("--bias", type=float, nargs="+", default=BIASES, help="values of style.bias")
    parser.add_argument("--temperature", type=float, default=0.5)
    chosen = parser.parse_args(arguments)
    return harness.finish(lambda: measure(chosen))


if __name__ == "__main__":
    sys.exit(main())
