"""How long a sweep takes under our launcher and under Hydra's basic one: the same jobs in one run, the same numbers.

    python scripts/benchmark_sweep.py --seeds 64 --steps 1000
    python scripts/benchmark_sweep.py --compose 1000

The first runs the ablation (4 variants of each seed) with each launcher in a folder of its own, compares every job's
losses bit for bit, and prints wall times and their ratio, the time of the same command once all is done, what lies on
the disk, and what the ablation shows. The second measures the composition of so many jobs alone.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LAUNCHERS = ("vectorized", "basic")


def run_sweep(launcher: str, seeds: int, steps: int, folder: Path) -> float:
    """Seconds of wall time of the whole command, its report included."""
    command = [
        sys.executable, "-m", "microgpt", "experiment=ablation", "mode=tensor", f"seed=range({seeds})",
        f"train.steps={steps}", f"hydra/launcher={launcher}",
    ]  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return seconds


def histories(folder: Path) -> dict[str, bytes]:
    """Every job's lines: the name of a job's folder is its number."""
    return {path.parent.name: path.read_bytes() for path in folder.glob("outputs/sweeps/*/*/history.jsonl")}


def compare_launchers(seeds: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folders = {launcher: Path(temporary) / launcher for launcher in LAUNCHERS}
        for folder in folders.values():
            folder.mkdir()
        warm = Path(temporary) / "warm"
        warm.mkdir()
        run_sweep("vectorized", 1, 1, warm)  # kernels are compiled, files are in the machine's cache
        seconds = {launcher: run_sweep(launcher, seeds, steps, folder) for launcher, folder in folders.items()}
        found = {launcher: histories(folder) for launcher, folder in folders.items()}
        once_more = run_sweep("vectorized", seeds, steps, folders["vectorized"])
        files = (path for path in (folders["vectorized"] / "outputs").rglob("*") if not path.is_symlink())
        size = sum(path.stat().st_size for path in files if path.is_file())
        (report,) = (folders["vectorized"] / "results").glob("ablation_*.md")
        shown = report.read_text()
    assert len(found["basic"]) == 4 * seeds
    same = sum(found["vectorized"].get(job) == lines for job, lines in found["basic"].items())
    print(f"{4 * seeds} jobs of {steps} steps, wall time with the report:")
    for launcher, taken in seconds.items():
        print(f"  hydra/launcher={launcher:<11} {taken:8.1f} s")
    print(f"  ratio {seconds['basic'] / seconds['vectorized']:.1f}")
    print(f"  the same command once more, when all is completed: {once_more:.1f} s")
    print(f"  jobs whose history.jsonl is the same byte for byte: {same} of {4 * seeds}")
    print(f"  on disk, with the last two checkpoints of each job: {size / 1e6:.0f} MB\n\n{shown}")


def measure_composition(jobs: int) -> None:
    """Composing, typing, checking and hashing one after the other, as the launcher does."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from microgpt.app import config_directory
    from microgpt.config.hydra_schema import from_omegaconf, register_schema
    from microgpt.config.identity import config_hash
    from microgpt.config.validation import check
    from microgpt.sweeps.composition import Composer

    register_schema()
    OmegaConf.register_new_resolver("sweep_id", lambda: "x", replace=True)
    with initialize_config_dir(config_directory(), version_base="1.3"):
        loader: Any = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", ["mode=tensor"], RunMode.MULTIRUN)

        def ours(composer: Composer, overrides: list[str]) -> str:
            composed = composer.compose(overrides)
            config = from_omegaconf(composed.config, composed.choices)
            check(config)
            return config_hash(config)

        several = [
            ["mode=tensor", f"seed={n // 4}", f"model.tie_lm_head={n % 2 == 0}", f"model.input_rmsnorm={n % 4 < 2}"]
            for n in range(jobs)
        ]
        start = time.perf_counter()
        composer = Composer(loader, master)
        hashes = {ours(composer, overrides) for overrides in several}
        quick = (time.perf_counter() - start) / jobs
        assert len(hashes) == jobs
        few = several[:: max(1, jobs // 20)]
        start = time.perf_counter()
        for overrides in few:
            loader.load_sweep_config(master, overrides)
        plain = (time.perf_counter() - start) / len(few)
    print(f"{jobs} jobs: {quick * 1e3:.2f} ms each to compose, type, check and hash; Hydra's own composition alone "
          f"{plain * 1e3:.1f} ms ({plain / quick:.0f} times)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=64, help="of each of the four variants")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--compose", type=int, metavar="JOBS", help="measure the composition of so many jobs instead")
    arguments = parser.parse_args()
    if arguments.compose:
        measure_composition(arguments.compose)
    else:
        compare_launchers(arguments.seeds, arguments.steps)


if __name__ == "__main__":
    main()
