"""Time a sweep with this project's launcher and with Hydra's basic launcher: the same jobs, compared bit for bit.

    python scripts/benchmark_sweep.py --seeds 64 --steps 1000
    python scripts/benchmark_sweep.py --compose 1000

The first command runs the ablation (4 variants for each seed) with each launcher in a separate folder and compares the
losses of every job. It prints the wall times and their ratio, the time that the same command takes once all jobs are
completed, the size on disk, and the report of the ablation. The second command measures only the composition of jobs.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

LAUNCHERS = ("vectorized", "basic")


def run_sweep(launcher: str, seeds: int, steps: int, folder: Path) -> float:
    """Return the wall time of the whole command in seconds, including its report."""
    folder.mkdir(exist_ok=True)
    start = time.perf_counter()
    harness.run_python(
        "-m", "microgpt", "experiment=ablation", "mode=tensor", f"seed=range({seeds})", f"train.steps={steps}",
        f"hydra/launcher={launcher}", folder=folder,
    )  # fmt: skip
    return time.perf_counter() - start


def histories(folder: Path) -> dict[str, bytes]:
    """Return the history of every job, keyed by the name of the job's folder, which is its number."""
    return {path.parent.name: path.read_bytes() for path in folder.glob("outputs/sweeps/*/*/history.jsonl")}


def compare_launchers(seeds: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folders = {launcher: Path(temporary) / launcher for launcher in LAUNCHERS}
        run_sweep("vectorized", 1, 1, Path(temporary) / "warm")  # compiles the kernels, reads the files
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
    print(f"  the same command once more, when all jobs are completed: {once_more:.1f} s")
    print(f"  jobs whose history.jsonl is the same byte for byte: {same} of {4 * seeds}")
    print(f"  on disk, with the last and the best checkpoint of each job: {size / 1e6:.0f} MB\n\n{shown}")


def measure_composition(jobs: int) -> None:
    """Time the composition, typing, checking and hashing of one job after the other, as in the launcher."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from microgpt.app import config_directory
    from microgpt.config.hydra_schema import register_schema
    from microgpt.config.hydra_settings import checked_by_rules
    from microgpt.config.identity import config_hash
    from microgpt.sweeps.composition import Composer

    register_schema()
    OmegaConf.register_new_resolver("sweep_id", lambda: "x", replace=True)
    with initialize_config_dir(config_directory(), version_base="1.3"):
        loader: Any = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", ["mode=tensor"], RunMode.MULTIRUN)

        def ours(composer: Composer, overrides: list[str]) -> str:
            composed = composer.compose(overrides)
            return config_hash(checked_by_rules(composed.values, composed.choices))

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
    parser = harness.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=64, help="number of seeds of each of the four variants (64)")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--compose", type=int, metavar="JOBS", help="instead measure the composition of JOBS jobs")
    arguments = parser.parse_args()
    if arguments.compose:
        measure_composition(arguments.compose)
    else:
        compare_launchers(arguments.seeds, arguments.steps)


if __name__ == "__main__":
    sys.exit(harness.finish(main))
