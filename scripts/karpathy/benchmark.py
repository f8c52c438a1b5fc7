"""Compare this project with microgpt.py, nanoGPT and nanochat on the same work: from a command line to a report.

results/benchmark_karpathy_<UTC>.json, .md, _logs/
"""

import argparse
import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from karpathy import machine
from karpathy.arguments import parse
from karpathy.contest import Comparison
from karpathy.gpu import Gpu, decide
from karpathy.interpreters import missing, python_for, sees_cuda
from karpathy.microgpt_py import compare_microgpt
from karpathy.nanochat import PACKAGES as NANOCHAT_PACKAGES
from karpathy.nanochat import compare_nanochat
from karpathy.nanogpt import PACKAGES as NANOGPT_PACKAGES
from karpathy.nanogpt import compare_nanogpt
from karpathy.report import agreement, document, finish, markdown
from karpathy.rounds import REPEATS, Conditions, exit_code, make_ready, run_round
from karpathy.sources import UnavailableError, Wanted, obtain
from karpathy.texts import lines_text, read_data, stream_text
from karpathy.workloads import Workload, precisions, workload
from microgpt.atomic import write_atomically, write_json
from microgpt.data.sources import Source
from microgpt.errors import UserError
from microgpt.runs.environment import load_average
from microgpt.runs.record import timestamp, without_non_finite

PACKAGES = {"microgpt": {}, "nanogpt": NANOGPT_PACKAGES, "nanochat": NANOCHAT_PACKAGES}
SCHEMA_VERSION = 2  # 2: `expected` beside the rounds' smallest and largest, `earlier`
STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Stopped(KeyboardInterrupt):
    """A signal that ends the benchmark; what was measured is written."""

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}")
        self.exit_code = STOPPED[signal.Signals(number)]


def say(line: str) -> None:
    """Progress; the tables alone are standard output."""
    print(line, file=sys.stderr, flush=True)


@dataclass
class Benchmark:
    """What was asked for, where it writes, and what came of it so far."""

    arguments: argparse.Namespace
    profile: str
    gpu: Gpu
    source: Source
    gpus: list[dict[str, Any]]
    stem: Path  # results/benchmark_karpathy_<UTC>
    earlier: dict[str, Any] | None  # a report to compare with
    comparisons: list[Comparison] = field(default_factory=list)
    started_at: str = field(default_factory=timestamp)
    load_before: list[float] | None = field(default_factory=load_average)

    @property
    def logs(self) -> Path:
        return self.stem.with_name(f"{self.stem.name}_logs")

    @property
    def repeats(self) -> int:
        return self.arguments.repeats or REPEATS

    @property
    def conditions(self) -> Conditions:
        return Conditions(self.repeats, self.arguments.timeout, self.logs, machine.gpu_memory_in_use, say)

    def workload(self, baseline: str) -> Workload:
        a = self.arguments
        return workload(baseline, self.profile, self.gpu.device, a.seed, a.steps, a.threads)

    def wanted(self, baseline: str) -> Wanted:
        a = self.arguments
        path = {"microgpt": a.microgpt_file, "nanogpt": a.nanogpt_dir, "nanochat": a.nanochat_dir}[baseline]
        ref = {"nanogpt": a.nanogpt_ref, "nanochat": a.nanochat_ref}.get(baseline)
        return Wanted(baseline, path and Path(path).resolve(), ref)

    def compose(self, baseline: str, scratch: Path, copy: Path, python: str, origin: dict[str, Any]) -> Comparison:
        """The comparison with one baseline; nothing is written yet. Raises UserError for data that is too short."""
        work = self.workload(baseline)
        if baseline == "microgpt":
            text = lines_text(self.source, work.block_size, work.eval_documents)
            return compare_microgpt(copy, origin, text, work, scratch)
        text = stream_text(self.source, work.block_size, work.batch_size, work.eval_documents)
        settings = precisions(baseline, self.profile, work.device)
        compare = compare_nanogpt if baseline == "nanogpt" else compare_nanochat
        return compare(copy, python, origin, text, work, settings, scratch)

    def make_ready(self, baseline: str, scratch: Path) -> None:
        """Obtain the baseline, write what its comparison needs, and warm up; what cannot be had is written down."""
        wanted = self.wanted(baseline)
        folder = scratch / baseline
        comparison = self.compose(baseline, folder, folder / "checkout", sys.executable, {"origin": wanted.told()})
        self.comparisons.append(comparison)
        try:
            say(f"{baseline}: {wanted.told()}")
            copy, origin = obtain(wanted, folder)
            install = self.arguments.install_deps
            python = python_for(baseline, PACKAGES[baseline], install, scratch, self.logs)
        except UnavailableError as error:
            comparison.problem = str(error)
            say(f"  unavailable: {error}")
            return
        comparison = self.comparisons[-1] = self.compose(baseline, folder, copy, python, origin)
        if make_ready(comparison, self.conditions):
            run_round(comparison, 0, self.conditions)
        else:
            say(f"  unavailable: {comparison.problem}")

    def report(self, code: int, interrupted: bool) -> dict[str, Any]:
        for comparison in self.comparisons:
            finish(comparison, self.arguments.val_loss)
        found = {
            "schema_version": SCHEMA_VERSION,
            "command": f"python {shlex.join(sys.argv)}",
            "arguments": vars(self.arguments),
            "profile": self.profile,
            "started_at": self.started_at,
            "finished_at": timestamp(),
            "exit_code": code,
            "interrupted": interrupted,
            "gpu": self.gpu.told,
            "gpu_required": self.gpu.required,
            "hardware": machine.hardware(self.gpus),
            "load_before": self.load_before,
            "load_after": load_average(),
            "data": {"origin": self.source.origin, "sha256": self.source.sha256},
            "comparisons": [{**document(c), "briefly": c.workload.briefly()} for c in self.comparisons],
            "earlier": None,
        }
        if self.earlier is not None:
            told = {"file": self.arguments.earlier, "started_at": self.earlier["started_at"]}
            found["earlier"] = {**told, "rows": agreement(found, self.earlier)}
        write_json(self.stem.with_suffix(".json"), without_non_finite(found))
        write_atomically(self.stem.with_suffix(".md"), markdown(found))
        return found

    def tell(self, baselines: list[str]) -> None:
        """--dry-run: what would be done. Nothing is fetched, installed or written."""
        scratch = Path(self.arguments.scratch or "<scratch>")
        for baseline in baselines:
            wanted, folder = self.wanted(baseline), scratch / baseline
            lacking = missing(sys.executable, PACKAGES[baseline]) if PACKAGES[baseline] else []
            comparison = self.compose(baseline, folder, folder / "checkout", sys.executable, {})
            print(f"\n{baseline}: {comparison.workload.briefly()}; a warm-up and {self.repeats} rounds")
            print(f"  would {wanted.told()}")
            if wanted.path is not None and not wanted.path.exists():
                print(f"  but {wanted.path} does not exist")
            if lacking:
                does = "install" if self.arguments.install_deps else "fail for want of"
                print(f"  would {does} {', '.join(lacking)}")
            for contestant in comparison.contestants:
                print(f"  {contestant.label}:\n    {contestant.launch(comparison.workload, 1).command.shown()}")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 a run failed, 2 a mistake, 3 no GPU or a fallback to the CPU, 124 out of time."""
    try:
        arguments, baselines = parse(argv)
        gpus = machine.visible_gpus()
        gpu = decide(arguments.require_gpu, gpus, baselines, (lambda: True) if arguments.dry_run else sees_cuda)
        say(f"GPU: {gpu.told}")
        if gpu.refused:
            return 3
        profile = arguments.profile if arguments.profile != "auto" else "full" if gpu.device == "cuda" else "quick"
        data, stem, earlier = read_data(arguments.data), new_stem(arguments.results_dir), read_report(arguments.earlier)
        benchmark = Benchmark(arguments, profile, gpu, data, gpus, stem, earlier)
        if arguments.dry_run:
            print(f"GPU: {gpu.told}; profile {profile}; would write {benchmark.stem}.json, .md and _logs/")
            benchmark.tell(baselines)
            return 0
        return run_all(benchmark, baselines)
    except UserError as error:
        say(f"error: {error}")
        return 2


def read_report(file: str | None) -> dict[str, Any] | None:
    """An earlier benchmark's JSON document. Raises UserError where it is none."""
    if file is None:
        return None
    try:
        found = json.loads(Path(file).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"--earlier={file} cannot be read: {error}") from error
    try:
        if found["schema_version"] == SCHEMA_VERSION and found["started_at"]:
            agreement(found, found)  # reads all that will be asked for
            return found
    except (KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"--earlier={file} is no report of this script with schema_version {SCHEMA_VERSION}")


def new_stem(results_dir: str) -> Path:
    """results/benchmark_karpathy_<UTC>, of which there is nothing yet."""
    while True:
        stem = Path(results_dir) / time.strftime("benchmark_karpathy_%Y%m%dT%H%M%SZ", time.gmtime())
        if not stem.with_suffix(".json").exists() and not stem.with_name(f"{stem.name}_logs").exists():
            return stem
        time.sleep(0.2)


def run_all(benchmark: Benchmark, baselines: list[str]) -> int:
    kept = benchmark.arguments.scratch
    scratch = Path(kept or tempfile.mkdtemp(prefix="benchmark_karpathy_")).resolve()
    code, earlier = 0, {number: signal.signal(number, stop) for number in STOPPED}
    try:
        benchmark.logs.mkdir(parents=True)
        for baseline in baselines:
            benchmark.make_ready(baseline, scratch)
        for number in range(1, benchmark.repeats + 1):
            for comparison in benchmark.comparisons:
                if not comparison.problem:
                    run_round(comparison, number, benchmark.conditions)
            benchmark.report(exit_code(benchmark.comparisons), interrupted=False)
        code = exit_code(benchmark.comparisons)
    except OSError as error:
        raise UserError(f"{error.filename or benchmark.stem} cannot be written: {error.strerror or error}") from error
    except Stopped as stopped:
        code = stopped.exit_code
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        if kept is None:
            shutil.rmtree(scratch, ignore_errors=True)
    print(markdown(benchmark.report(code, interrupted=code in STOPPED.values())))
    print(f"files: {benchmark.stem}.json, .md, _logs/")
    return code


def stop(number: int, frame: object) -> None:
    raise Stopped(number)
