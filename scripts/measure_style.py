"""Measure how strong a style's bias must be: the share of samples with a whole phrase of the style, by style.bias.

Trains the default model as `python -m microgpt` does, in a temporary folder, or takes a run with --checkpoint. Samples
are those of `task=sample sample.num_samples=... style.bias=...`: the random numbers go on where training left them,
anew for each bias, so that one command on one version of Python prints one table always.

python scripts/measure_style.py
python scripts/measure_style.py --checkpoint outputs/2026-01-02/08-00-00_abcdef12 --samples 1000 --bias 0 1 2 3
"""

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from microgpt.config.schema import Config, SampleConfig, StyleConfig
from microgpt.errors import MicrogptError, UserError
from microgpt.inference.generation import encode_prompt, generate, phrase_rate
from microgpt.inference.loading import load_model
from microgpt.runs.record import Invocation
from microgpt.tasks.sample import generator

BIASES = [0.0, 2.0, 3.0, 4.0, 5.0]


def train(folder: str) -> str:
    """The default model's run, below `folder`; what it says goes to standard error."""
    command = [sys.executable, "-m", "microgpt", "sample.num_samples=0", f"outputs_dir={folder}/outputs"]
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    return "latest"


def share(checkpoint: str, outputs: str, samples: int, temperature: float, bias: float) -> float:
    """Of the samples those with a phrase of the checkpoint's style. Raises UserError for a model without phrases."""
    asked = SampleConfig(num_samples=samples, temperature=temperature)
    config = Config(checkpoint=checkpoint, outputs_dir=outputs, sample=asked, style=StyleConfig(bias=bias))
    invocation = Invocation((f"style.bias={bias:g}",))
    trained = load_model(config, invocation)
    if trained.is_chat:
        raise UserError(f"--checkpoint {checkpoint} is a chat model: phrases are counted in texts that answer nobody")
    prompt = encode_prompt("", trained.tokenizer, trained.block_size)
    rng = generator(config, invocation, trained.checkpoint)
    drawn = [generate(trained.continuation(prompt, rng), trained.new_decoder) for _ in range(samples)]
    found = phrase_rate([each.text for each in drawn], trained.policy.phrases)
    if found is None:
        raise UserError(f"--checkpoint {checkpoint} has a style without phrases: train it with style=futuristic")
    return found


def measure(checkpoint: str, outputs: str, chosen: argparse.Namespace) -> None:
    shares = []
    for bias in chosen.bias:
        shares.append(share(checkpoint, outputs, chosen.samples, chosen.temperature, bias))
        print(f"style.bias={bias:g}: {shares[-1]:.1%}", file=sys.stderr, flush=True)
    print(f"| bias | {' | '.join(f'{bias:g}' for bias in chosen.bias)} |")
    print("|---" * (len(shares) + 1) + "|")
    print(f"| phrase | {' | '.join(f'{each:.0%}'.replace('%', ' %') for each in shares)} |")


def check(chosen: argparse.Namespace) -> None:
    """Raises UserError for what cannot be measured."""
    if chosen.samples < 1:
        raise UserError(f"--samples {chosen.samples} is not allowed: it must be 1 or more")
    if not math.isfinite(chosen.temperature) or chosen.temperature < 0:
        raise UserError(f"--temperature {chosen.temperature:g} is not allowed: it must be finite and >= 0")
    for bias in chosen.bias:
        if not math.isfinite(bias):
            raise UserError(f"--bias {bias:g} is not allowed: it must be finite")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", metavar="RUN", help="folder of a run or of a checkpoint; else one is trained")
    parser.add_argument("--samples", type=int, default=300, help="for each bias")
    parser.add_argument("--bias", type=float, nargs="+", default=BIASES, help="values of style.bias")
    parser.add_argument("--temperature", type=float, default=0.5)
    chosen = parser.parse_args(arguments)
    try:
        check(chosen)
        if chosen.checkpoint is not None:
            measure(chosen.checkpoint, "outputs", chosen)
            return 0
        with tempfile.TemporaryDirectory() as folder:
            measure(train(folder), f"{folder}/outputs", chosen)
        return 0
    except MicrogptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
