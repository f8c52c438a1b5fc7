"""Time the collection of many records: the process scripts/collect.py over synthetic runs of the four variants.

python scripts/benchmark_collect.py --runs 10000
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from microgpt.config import Config, ModelConfig, StyleConfig
from microgpt.record import Invocation, new_record

FIGURES = {"parameter_count": 4256, "steps": 1000, "final_loss": 2.3, "mean_loss_last_n": 2.3, "last_n": 50}


def write_runs(folder: Path, count: int) -> None:
    """Records as a sweep of count / 4 seeds over the four variants leaves them."""
    for number in range(count):
        tied, normed, seed = number % 4 < 2, number % 2 == 0, number // 4
        model = ModelConfig(name="gpt", n_embd=16, n_head=4, n_layer=1, tie_lm_head=tied, input_rmsnorm=normed)
        record = new_record(
            asdict(Config(model=model, style=StyleConfig(name="classic"), seed=seed)), f"{number:064x}", Invocation()
        )
        rates = {"steps_per_sec": 100.0, "tokens_per_sec": 700.0, "val_loss": 2.3 + number / count}
        record |= {"run_id": f"sweeps/benchmark/{number}", "status": "completed", "metrics": {**FIGURES, **rates}}
        path = folder / "outputs" / "sweeps" / "benchmark" / str(number) / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record, indent=2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        write_runs(Path(name), runs)
        start = time.perf_counter()
        collect = [sys.executable, str(Path(__file__).with_name("collect.py").resolve())]
        done = subprocess.run(collect, cwd=name, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    print(next(line for line in done.stdout.splitlines() if line.startswith("collected")))
    print(f"{runs} runs in {seconds:.1f} s, the start of Python included")
    return 0


if __name__ == "__main__":
    sys.exit(main())
