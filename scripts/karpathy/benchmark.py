"""Compare this project with microgpt.py, nanoGPT and nanochat on the same work: from a command line to a report.

Writes results/benchmark_karpathy_<UTC>.json, .md and _logs/. Standard output contains only the tables.
"""

import argparse
import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import say

from karpathy import machine
from karpathy.arguments import parse
from karpathy.comparison import BaselineComparison, Conditions, exit_code, prepare, run_round
from karpathy.data import lines_text, read_data, stream_text
from karpathy.microgpt_py import compare_microgpt
from karpathy.nanochat import PACKAGES as NANOCHAT_PACKAGES
from karpathy.nanochat import compare_nanochat
from karpathy.nanogpt import PACKAGES as NANOGPT_PACKAGES
from karpathy.nanogpt import compare_nanogpt
from karpathy.processes import UnavailableError, missing, python_for
from karpathy.report import agreement, document, finish, markdown
from karpathy.sources import Origin
from karpathy.workloads import make_setup, precisions
from microgpt.atomic import write_atomically, write_json
from microgpt.data.sources import Source
from microgpt.errors import UserError
from microgpt.runs.environment import load_average
from microgpt.runs.record import timestamp
from microgpt.runs.record_json import without_non_finite

PACKAGES = {"microgpt": {}, "nanogpt": NANOGPT_PACKAGES, "nanochat": NANOCHAT_PACKAGES}
COMPARE = {"nanogpt": compare_nanogpt, "nanochat": compare_nanochat}
SCHEMA_VERSION = 2
STOP_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Stopped(KeyboardInterrupt):
    """A signal ended the benchmark; the results up to then are written."""


@dataclass
class Benchmark:
    """The options of a benchmark, its output files, and its results so far."""

    arguments: argparse.Namespace
    baselines: list[str]
    choice: machine.DeviceChoice
    gpus: list[dict[str, Any]]
    source: Source
    stem: Path  # results/benchmark_karpathy_<UTC>
    earlier: dict[str, Any] | None  # a report to compare with
    comparisons: list[BaselineComparison] = field(default_factory=list)
    started_at: str = field(default_factory=timestamp)
    load_before: list[float] | None = field(default_factory=load_average)

    @property
    def profile(self) -> str:
        profile = self.arguments.profile
        return ("full" if self.choice.device == "cuda" else "quick") if profile == "auto" else profile

    @property
    def logs(self) -> Path:
        return self.stem.with_name(f"{self.stem.name}_logs")

    def origin(self, baseline: str) -> Origin:
        a = self.arguments
        path = {"microgpt": a.microgpt_file, "nanogpt": a.nanogpt_dir, "nanochat": a.nanochat_dir}[baseline]
        ref = {"nanogpt": a.nanogpt_ref, "nanochat": a.nanochat_ref}.get(baseline)
        return Origin(baseline, path and Path(path).resolve(), ref)

    def compose(
        self, baseline: str, scratch: Path, copy: Path | None, python: str, source: dict[str, Any]
    ) -> BaselineComparison:
        """Return the comparison with one baseline; write nothing. Raises UserError if the text is too short."""
        a, copy = self.arguments, copy or scratch / "checkout"
        setup = make_setup(baseline, self.profile, self.choice.device, a.seed, a.steps, a.threads)
        if baseline == "microgpt":
            text = lines_text(self.source, setup.block_size, setup.eval_documents)
            return replace(compare_microgpt(copy, text, setup, scratch), source=source)
        text = stream_text(self.source, setup.block_size, setup.batch_size, setup.eval_documents)
        settings = precisions(baseline, self.profile, setup.device)
        return replace(COMPARE[baseline](copy, python, text, setup, settings, scratch), source=source)

    def prepare(self, baseline: str, scratch: Path, conditions: Conditions) -> None:
        """Obtain a baseline, write the files of its comparison and warm up; if it is not available, record why."""
        origin, folder = self.origin(baseline), scratch / baseline
        self.comparisons.append(self.compose(baseline, folder, None, sys.executable, {"origin": origin.action()}))
        try:
            say(f"{baseline}: {origin.action()}")
            copy, source = origin.obtain(folder)
            python = python_for(baseline, PACKAGES[baseline], self.arguments.install_deps, scratch, self.logs)
        except UnavailableError as error:
            self.comparisons[-1].problem = str(error)
        else:
            self.comparisons[-1] = self.compose(baseline, folder, copy, python, source)
            if prepare(self.comparisons[-1], conditions):
                run_round(self.comparisons[-1], 0, conditions)
                return
        say(f"  unavailable: {self.comparisons[-1].problem}")

    def write_report(self, code: int, interrupted: bool = False) -> str:
        """Write the files of the report; return its Markdown."""
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
            "gpu": self.choice.reason,
            "gpu_required": self.choice.required,
            "hardware": machine.hardware(self.gpus),
            "load_before": self.load_before,
            "load_after": load_average(),
            "data": {"origin": self.source.origin, "sha256": self.source.sha256},
            "comparisons": [document(comparison) for comparison in self.comparisons],
            "earlier": None,
        }
        if self.earlier is not None:
            found["earlier"] = {
                "file": self.arguments.earlier,
                "started_at": self.earlier["started_at"],
                "rows": agreement(found, self.earlier),
            }
        write_json(self.stem.with_suffix(".json"), without_non_finite(found))
        write_atomically(self.stem.with_suffix(".md"), markdown(found))
        return markdown(found)

    def dry_run(self) -> None:
        """Print what the benchmark would do."""
        print(f"GPU: {self.choice.reason}; profile {self.profile}; would write {self.stem}.json, .md and _logs/")
        scratch = Path(self.arguments.scratch or "<scratch>")
        for baseline in self.baselines:
            origin = self.origin(baseline)
            comparison = self.compose(baseline, scratch / baseline, None, sys.executable, {})
            print(f"\n{baseline}: {comparison.setup.summary()}; a warm-up and {self.arguments.repeats} rounds")
            print(f"  would {origin.action()}")
            if origin.path is not None and not origin.path.exists():
                print(f"  but {origin.path} does not exist")
            if lacking := missing(sys.executable, PACKAGES[baseline]) if PACKAGES[baseline] else []:
                print(f"  would {'install' if self.arguments.install_deps else 'fail without'} {', '.join(lacking)}")
            for contestant in comparison.contestants:
                print(f"  {contestant.label}:\n    {contestant.launch(comparison.setup, 1).command.shown()}")

    def run(self) -> int:
        kept = self.arguments.scratch
        scratch = Path(kept or tempfile.mkdtemp(prefix="benchmark_karpathy_")).resolve()
        a, handlers = self.arguments, {number: signal.signal(number, stop) for number in STOP_CODES}
        conditions = Conditions(a.repeats, a.timeout, self.logs, machine.gpu_memory_in_use)
        try:
            self.logs.mkdir(parents=True)
            for baseline in self.baselines:
                self.prepare(baseline, scratch, conditions)
            for number in range(1, a.repeats + 1):
                for comparison in self.comparisons:
                    if not comparison.problem:
                        run_round(comparison, number, conditions)
                self.write_report(exit_code(self.comparisons))
            code = exit_code(self.comparisons)
        except OSError as error:
            raise UserError(f"{error.filename or self.stem} cannot be written: {error.strerror or error}") from error
        except Stopped as stopped:
            code = stopped.args[0]
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if kept is None:
                shutil.rmtree(scratch, ignore_errors=True)
        print(self.write_report(code, interrupted=code in STOP_CODES.values()))
        print(f"files: {self.stem}.json, .md, _logs/")
        return code


def stop(number: int, frame: object) -> None:
    raise Stopped(STOP_CODES[signal.Signals(number)])


def read_report(file: str | None) -> dict[str, Any] | None:
    """Read the JSON document of an earlier benchmark. Raises UserError for another file."""
    if file is None:
        return None
    try:
        found = json.loads(Path(file).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"--earlier={file} cannot be read: {error}") from error
    try:
        if found["schema_version"] == SCHEMA_VERSION and found["started_at"]:
            agreement(found, found)  # reads all keys that are needed later
            return found
    except (KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"--earlier={file} is not a report of this script with schema_version {SCHEMA_VERSION}")


def new_stem(results_dir: str) -> Path:
    """Return results/benchmark_karpathy_<UTC> such that no file of that name exists."""
    while True:
        stem = Path(results_dir) / time.strftime("benchmark_karpathy_%Y%m%dT%H%M%SZ", time.gmtime())
        if not stem.with_suffix(".json").exists() and not stem.with_name(f"{stem.name}_logs").exists():
            return stem
        time.sleep(0.2)


def main(argv: list[str] | None = None) -> int:
    """Return the exit code, as listed in --help."""
    try:
        arguments, baselines = parse(argv)
        gpus, usable = machine.visible_gpus(), (lambda: True) if arguments.dry_run else machine.sees_cuda
        choice = machine.choose_device(arguments.require_gpu, gpus, baselines, usable)
        say(f"GPU: {choice.reason}")
        if choice.refused:
            return 3
        source, earlier = read_data(arguments.data), read_report(arguments.earlier)
        stem = new_stem(arguments.results_dir)
        benchmark = Benchmark(arguments, baselines, choice, gpus, source, stem, earlier)
        if arguments.dry_run:
            benchmark.dry_run()
            return 0
        return benchmark.run()
    except UserError as error:
        say(f"error: {error}")
        return 2
