"""Measure how long scripts/collect.py takes for many synthetic runs of the four variants of an ablation.

The runs have histories, so the time includes tables, statistics, plots and the page.

python scripts/benchmark_collect.py --runs 1024
"""

import json
import math
import random
import resource
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import harness

from microgpt.config.schema import Config, ModelConfig, StyleConfig
from microgpt.runs.folders import HISTORY
from microgpt.runs.invocation import Invocation
from microgpt.runs.record import RunRecord

FIGURES = {"parameter_count": 4256, "steps": 1000, "final_loss": 2.3, "mean_loss_last_n": 2.3, "last_n": 50}


def write_runs(folder: Path, count: int, lines: int) -> None:
    """Write the runs of a sweep of count / 4 seeds over the four variants, with histories of `lines` lines."""
    rng = random.Random(0)
    for number in range(count):
        tied, normed, seed = number % 4 < 2, number % 2 == 0, number // 4
        model = ModelConfig(name="gpt", n_embd=16, n_head=4, n_layer=1, tie_lm_head=tied, input_rmsnorm=normed)
        config = asdict(Config(model=model, style=StyleConfig(name="classic"), seed=seed))
        record = RunRecord.new(config, f"{number:064x}", Invocation()).document()
        rates = {"steps_per_sec": 100.0, "tokens_per_sec": 700.0, "val_loss": 2.3 + rng.gauss(0, 0.02)}
        record |= {"run_id": f"sweeps/benchmark/{number}", "status": "completed", "metrics": {**FIGURES, **rates}}
        path = folder / "outputs" / "sweeps" / "benchmark" / str(number) / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record, indent=2))
        history = (history_line(1000 * i // lines, i % 5 == 0, rng) for i in range(lines + 1))
        (path.parent / HISTORY).write_text("".join(json.dumps(line) + "\n" for line in history))


def history_line(step: int, evaluated: bool, rng: random.Random) -> dict[str, float]:
    loss = 2.3 + math.exp(-step / 100)
    line = {"step": step, "loss": loss + rng.gauss(0, 0.4), "lr": 0.01 * (1 - step / 1000), "tokens": 7 * step}
    return line | ({"val_loss": loss + rng.gauss(0, 0.02)} if evaluated else {})


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--runs", type=int, default=1024)
    parser.add_argument("--lines", type=int, default=20, help="lines of each run's history")
    arguments = parser.parse_args()
    runs = arguments.runs
    with tempfile.TemporaryDirectory() as name:
        write_runs(Path(name), runs, arguments.lines)
        start = time.perf_counter()
        printed = harness.run_python(str(Path(__file__).with_name("collect.py").resolve()), folder=name)
        seconds = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        page = (Path(name) / "results" / "report.html").stat().st_size
    print(next(line for line in printed.splitlines() if line.startswith("collected")))
    print(f"{runs} runs in {seconds:.1f} s, including the start of Python and all imports")
    print(f"CPU time {used.ru_utime + used.ru_stime:.1f} s; report.html {page / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(harness.finish(main))
