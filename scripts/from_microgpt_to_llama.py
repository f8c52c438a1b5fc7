"""Train microgpt and the model after each change on the way to Llama; print the effect of each change on val_loss.

python scripts/from_microgpt_to_llama.py                     64 seeds of 1000 steps
python scripts/from_microgpt_to_llama.py --write             also replace the table in docs/from-microgpt-to-llama.md
python scripts/from_microgpt_to_llama.py --seeds 4 --steps 100 --backend torch

Two effects are measured, both paired by seed: the effect of a change on top of the changes before it, and the effect of
the change alone on microgpt. Intervals are 95 % intervals.
"""

import contextlib
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness

import microgpt
from microgpt.errors import MicrogptError
from microgpt.reports.experiments.ladder import half_width
from microgpt.reports.paired_statistics import paired, summary
from microgpt.reports.settings import grouped

PAGE = Path(__file__).resolve().parents[1] / "docs" / "from-microgpt-to-llama.md"
TABLE = re.compile(r"(<!-- table -->\n\n).*?(?=\n\n)", re.DOTALL)
CHANGES = {  # in the order of the page; after IS_LLAMA, the model is model=llama
    "no norm of the embeddings": "model.input_rmsnorm=false",
    "a norm before the output": "model.final_norm=true",
    "gains": "model.norm_gain=true",
    "RoPE": "model.position=rope",
    "SiLU": "model.activation=silu",
    "a gate, at equal size": "model.gated_mlp=true model.mlp_width=43",
    "the gated MLP 64 wide": "model.gated_mlp=true model.mlp_width=null",
    "init_std 0.02": "model.init_std=0.02",
    "two heads of keys and values": "model.n_kv_head=2",
}
IS_LLAMA = "init_std 0.02"


@dataclass(frozen=True)
class Trained:
    parameters: int
    losses: Mapping[int, float]  # val_loss by seed


def measure(backend: str, seeds: int, steps: int, write: bool) -> None:
    common = ("mode=tensor", f"backend={backend}", "style=classic", "sample.num_samples=0",
              {"seed": range(seeds), "train.steps": steps, "train.eval_every": None})  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        table = results(common)
    print(f"{seeds} seeds, {steps} steps, backend={backend}\n\n{table}")
    if write:
        PAGE.write_text(TABLE.sub(lambda found: found[1] + table, PAGE.read_text(), count=1))


def results(common: Sequence[Any]) -> str:
    """Return a Markdown table with a row for each model."""
    rungs = ",".join(f"'{change}'" for change in ("model=gpt", *CHANGES.values()))
    ladder = train(*common, "hydra/sweeper=ladder", "ladder.equal_size=false", f"ladder.rungs=[{rungs}]")
    rows = [["microgpt", f"{ladder[0].parameters:,}", mean(ladder[0]), "", ""]]
    for name, before, after in zip(CHANGES, ladder, ladder[1:], strict=False):
        (alone,) = train(*common, *CHANGES[name].split())
        rows.append(
            [f"+ {name}", f"{after.parameters:,}", mean(after), effect(after, before), effect(alone, ladder[0])]
        )
        if name == IS_LLAMA and train(*common, "model=llama") != [after]:
            raise MicrogptError("model=llama differs from microgpt with these changes")
    return harness.table(["model", "parameters", "val_loss", "change", "change alone"], rows)


def train(*overrides: Any) -> list[Trained]:
    """Train the models of a ladder or a single one. Raises MicrogptError if a run did not end with a val_loss."""
    harness.say(f"training {overrides[-1]}")
    with contextlib.redirect_stdout(sys.stderr):
        runs = microgpt.sweep(*overrides)
    models = grouped(runs, lambda run: run.record.config["ladder"]["rung"] or 0)
    return [trained(models[rung]) for rung in sorted(models)]


def trained(runs: Sequence[microgpt.Run]) -> Trained:
    losses: dict[int, float] = {}
    for run in runs:
        if run.record.seed is None or run.metrics.val_loss is None:
            raise MicrogptError(f"the run in {run.folder} has no val_loss")
        losses[run.record.seed] = run.metrics.val_loss
    return Trained(runs[0].metrics.parameter_count, losses)


def mean(trained: Trained) -> str:
    found = summary(trained.losses.values())
    return f"{found.mean:.4f}" + half_width(found.mean, found.interval)


def effect(after: Trained, before: Trained) -> str:
    found = paired(after.losses, before.losses)
    assert found.mean is not None
    return f"{found.mean:+.4f}" + half_width(found.mean, found.interval)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--backend", default="native", help="native or torch (native)")
    parser.add_argument("--seeds", type=harness.at_least(2), default=64)
    parser.add_argument("--steps", type=harness.at_least(1), default=1000)
    parser.add_argument("--write", action="store_true", help=f"replace the table in {PAGE.name}")
    chosen = parser.parse_args(arguments)
    return harness.finish(lambda: measure(chosen.backend, chosen.seeds, chosen.steps, chosen.write))


if __name__ == "__main__":
    sys.exit(main())
