"""Run the jobs of a sweep without the program: in this process, or in processes with an injected fault."""

import errno
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from microgpt.app import config_directory
from microgpt.config.hydra_errors import report
from microgpt.config.hydra_schema import from_values, register_schema
from microgpt.config.schema import Config
from microgpt.config.validation import check
from microgpt.errors import Interrupted
from microgpt.runs.invocation import Invocation
from microgpt.sweeps import runner
from microgpt.sweeps.composition import Composer
from microgpt.sweeps.groups import Job
from microgpt.sweeps.runner import Outcome, SweepRunner
from microgpt.tasks.train import train
from microgpt.training.guards import stop_on_signals
from microgpt.training.runner import TrainingRun
from support.program import read_record

SMALL = (
    "mode=tensor", "backend=native", "style=classic", "train.steps=20", "train.log_every=3", "train.eval_every=10",
    "train.checkpoint_every=7", "sample.num_samples=2",
)  # fmt: skip
TINY = "model.n_embd=8", "model.n_head=2"
# Keys of run.json that differ between a run alone and the same run as a job of a sweep.
VARYING = {
    "run_id", "started_at", "finished_at", "command", "git", "timings", "group", "resumed", "earlier_failures",
}  # fmt: skip
RATES = ("steps_per_sec", "tokens_per_sec")
FOLDER = Path("outputs/sweeps/it_0123")
PROCESSES = multiprocessing.get_context("spawn")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def names(folder: Path, count: int = 60, start: int = 0) -> Path:
    """Write a small file of distinct documents."""
    path = folder / "names.txt"
    numbers = range(37 * start, 37 * start + count)
    lines = ["".join("abcdefg"[number // 7**place % 7] for place in range(4)) for number in numbers]
    path.write_text("".join(f"{line}{line[:2]}\n" for line in lines))
    return path


@cache
def composer() -> Composer:
    register_schema()
    OmegaConf.register_new_resolver("sweep_id", lambda: "it_0123", replace=True)
    with initialize_config_dir(config_directory(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


def jobs_of(*overrides: str) -> list[Job]:
    """Return a job for each combination of the values; those of one key are separated by `|`."""
    choices = [
        [f"{key}={value}" for value in values.split("|")] for key, values in (each.split("=", 1) for each in overrides)
    ]
    return [Job(number, composed(own), own) for number, own in enumerate(product(*choices))]


def composed(overrides: Iterable[str]) -> Config:
    found = composer().compose(list(overrides))
    config = from_values(found.values, found.choices)
    check(config)
    return config


def run(folder: Path, jobs: list[Job], most: int | None = None) -> dict[int, Outcome]:
    with stop_on_signals() as stop:
        return SweepRunner(folder / FOLDER, jobs, most).run(stop)


def run_alone(folder: Path, job: Job) -> Path:
    """Run the job's configuration outside a sweep; returns the run's folder."""
    before = set(folder.glob("*/*/run.json"))
    train(replace(job.config, outputs_dir=str(folder)), Invocation(job.overrides))
    (record,) = set(folder.glob("*/*/run.json")) - before
    return record.parent


@dataclass(frozen=True)
class SweepProcess:
    """A process that runs the sweep below `folder`, with a fault before its operation number `after` on a file there.

    `event`: SIGKILL or SIGTERM, which it sends to itself, or "full disk": from then on nothing can be created or opened
    for writing.
    """

    folder: Path
    after: int = sys.maxsize
    event: str = "SIGKILL"
    most: int | None = None


class Ended(NamedTuple):
    """A process's exit code (negative: the signal that killed it) and output."""

    code: int
    output: str

    @property
    def trained(self) -> list[str]:
        """Names of the folders of the jobs that it trained, perhaps not to the end."""
        return self.words_after("TRAINS")

    @property
    def failed(self) -> list[int]:
        """Numbers of the jobs whose outcome is an error."""
        return [int(number) for number in self.words_after("FAILED")]

    @property
    def operations(self) -> int:
        """The number of its operations on files of the sweep."""
        return int(self.words_after("OPERATIONS")[0])

    def words_after(self, word: str) -> list[str]:
        return [each for line in self.output.splitlines() if line.split()[:1] == [word] for each in line.split()[1:]]


RunStages = Callable[[list[Job], list[list[SweepProcess]]], list[list[Ended]]]


@contextmanager
def stage_runner(warm: list[Job]) -> Iterator[RunStages]:
    """Yield a function that runs processes in stages: those of a stage start at once, after the last stage has ended.

    They are forks of a process that has run the first job and so has loaded the kernels: a fork takes milliseconds.
    """
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=serve_stages, args=(there, warm[0]))
    process.start()
    there.close()

    def run_stages(jobs: list[Job], stages: list[list[SweepProcess]]) -> list[list[Ended]]:
        assert all(job.config.backend.threads == 1 for job in jobs), "a process with threads must not be forked"
        here.send((jobs, stages))
        assert here.poll(300), "the processes did not end"
        return here.recv()

    try:
        yield run_stages
    finally:
        process.kill()
        process.join()


def serve_stages(connection: Connection, warm: Job) -> None:
    with tempfile.TemporaryDirectory() as name:
        outputs = Path(name)
        with (outputs / "warm").open("w") as file, redirect_stdout(file), redirect_stderr(file):
            run(outputs, [warm])
        while True:
            jobs, stages = connection.recv()
            connection.send([run_at_once(jobs, processes, outputs) for processes in stages])


def run_at_once(jobs: list[Job], processes: list[SweepProcess], outputs: Path) -> list[Ended]:
    gate, key = os.pipe()
    started: list[tuple[int, Path]] = []
    for number, process in enumerate(processes):
        file = outputs / str(number)
        pid = os.fork()
        if pid == 0:
            os.close(key)
            os.read(gate, 1)  # until all have been forked
            run_and_exit(jobs, process, file)
        started.append((pid, file))
    os.close(gate)
    os.close(key)
    return [Ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file.read_text()) for pid, file in started]


def run_and_exit(jobs: list[Job], process: SweepProcess, output: Path) -> NoReturn:
    """Run the sweep and exit like the program: with its exit code, and a sentence for an error that is not a bug."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)
    operations = inject_fault(process.event, process.after)
    train_runs = runner.train_runs

    def train_and_print(runs: list[TrainingRun], *rest: Any) -> None:
        print("TRAINS", *(run.folder.path.name for run in runs))
        train_runs(runs, *rest)

    runner.train_runs = train_and_print
    code = 99
    try:
        outcomes = run(process.folder, jobs, process.most)
        print("FAILED", *(number for number, outcome in sorted(outcomes.items()) if outcome.error is not None))
        code = 0
    except Interrupted as stop:
        code = stop.exit_code
    except Exception as error:
        code = report(error)
    finally:
        print(f"OPERATIONS {operations()}")
        os._exit(code)


def inject_fault(event: str, after: int) -> Callable[[], int]:
    """Cause the event before this process's operation number `after`; returns a function that counts operations."""
    done = 0

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        is_of_file = name == "open" or name.startswith(("os.", "shutil."))
        if not is_of_file or not any(isinstance(a, str) and str(FOLDER) in a for a in map(as_path, arguments)):
            return
        if event != "full disk":
            if done == after:
                os.kill(os.getpid(), signal.Signals[event])
        elif done >= after and (name == "os.mkdir" or (name == "open" and arguments[2] & WRITING)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += 1

    sys.addaudithook(watch)
    return lambda: done


def as_path(argument: Any) -> Any:
    return os.fspath(argument) if isinstance(argument, os.PathLike) else argument


def folders(folder: Path) -> dict[str, Path]:
    """Return the folders of a sweep's jobs by name."""
    return {path.name: path for path in sorted((folder / FOLDER).iterdir()) if path.is_dir() and path.name != ".locks"}


def written_by(run: Path) -> dict[str, Any]:
    """Return everything that a run has written except places, times and rates: the record's keys and whole files."""
    record = read_record(run)
    kept = {key: value for key, value in record.items() if key not in VARYING}
    kept["config"] = {key: value for key, value in record["config"].items() if key != "outputs_dir"}
    kept["error"] = record["error"] and record["error"].replace(str(run), "")
    kept["metrics"] = {key: value for key, value in (record["metrics"] or {}).items() if key not in RATES}
    timed = "train_state.json", "checksums.json"  # they contain seconds
    files = {
        str(path.relative_to(run)): b"" if path.name in timed else path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file()
        and path.name not in ("run.json", ".lock")
        and path.parent.name != ".hydra"  # which has places
    }
    keys = sorted(record.keys() - {"resumed", "earlier_failures"})
    return {"keys": keys, "record": kept, "files": files, "links": links(run)}


def links(run: Path) -> dict[str, str]:
    if not (run / "checkpoint").exists():
        return {}
    return {path.name: str(path.readlink()) for path in (run / "checkpoint").iterdir() if path.is_symlink()}
