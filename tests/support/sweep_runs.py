"""A sweep's work without the program around it: jobs composed here, run here or in processes that meet a fault."""

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
from microgpt.config.conversion import from_omegaconf, register_schema
from microgpt.config.hydra_errors import report
from microgpt.config.schema import Config
from microgpt.config.validation import check
from microgpt.errors import Interrupted
from microgpt.runs.record import Invocation
from microgpt.sweeps import runner
from microgpt.sweeps.composition import Composer
from microgpt.sweeps.groups import Job
from microgpt.sweeps.runner import Outcome, SweepRunner
from microgpt.tasks.train import train
from microgpt.training.guards import stop_on_signals
from microgpt.training.runner import Member
from support.program import read_record

SMALL = (
    "mode=tensor", "backend=native", "style=classic", "train.steps=20", "train.log_every=3", "train.eval_every=10",
    "train.checkpoint_every=7", "sample.num_samples=2",
)  # fmt: skip
TINY = "model.n_embd=8", "model.n_head=2"
# What differs between a run alone and the same run as a job of a sweep.
OF_THE_PLACE = {
    "run_id", "started_at", "finished_at", "command", "git", "timings", "group", "resumed", "earlier_failures",
}  # fmt: skip
RATES = ("steps_per_sec", "tokens_per_sec")
FOLDER = Path("outputs/sweeps/it_0123")
PROCESSES = multiprocessing.get_context("spawn")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def names(folder: Path, count: int = 60, start: int = 0) -> Path:
    """A small file of distinct documents."""
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
    """A job for each combination of the values; those of one key are separated by `|`."""
    choices = [
        [f"{key}={value}" for value in values.split("|")] for key, values in (each.split("=", 1) for each in overrides)
    ]
    return [Job(number, composed(own), own) for number, own in enumerate(product(*choices))]


def composed(overrides: Iterable[str]) -> Config:
    found = composer().compose(list(overrides))
    config = from_omegaconf(found.config, found.choices)
    check(config)
    return config


def run(folder: Path, jobs: list[Job], most: int | None = None) -> dict[int, Outcome]:
    with stop_on_signals() as stop:
        return SweepRunner(folder / FOLDER, jobs, most).run(stop)


def run_alone(folder: Path, job: Job) -> Path:
    """The job as a run of its own; returns its folder."""
    before = set(folder.glob("*/*/run.json"))
    train(replace(job.config, outputs_dir=str(folder)), Invocation(job.overrides))
    (record,) = set(folder.glob("*/*/run.json")) - before
    return record.parent


@dataclass(frozen=True)
class Attempt:
    """A process that works on the sweep below `folder`, and what meets it before its operation `after` on a file there.

    SIGKILL | SIGTERM: it is sent this signal. full disk: from then on nothing can be made or opened to write.
    """

    folder: Path
    after: int = sys.maxsize
    event: str = "SIGKILL"
    most: int | None = None


class Ended(NamedTuple):
    """How an attempt ended: its exit code (a negative number is the signal that killed it), and what it printed."""

    code: int
    said: str

    @property
    def trained(self) -> list[str]:
        """Folders of the jobs that it trained, some perhaps not to their end."""
        return self.after("TRAINS")

    @property
    def failed(self) -> list[int]:
        """Numbers of the jobs that it ends with as failed."""
        return [int(number) for number in self.after("FAILED")]

    @property
    def operations(self) -> int:
        """How many operations on files of the sweep it did to its end."""
        return int(self.after("OPERATIONS")[0])

    def after(self, word: str) -> list[str]:
        return [each for line in self.said.splitlines() if line.split()[:1] == [word] for each in line.split()[1:]]


Perform = Callable[[list[Job], list[list[Attempt]]], list[list[Ended]]]


@contextmanager
def performing(warm: list[Job]) -> Iterator[Perform]:
    """A function that makes attempts at a sweep: those of a stage begin at once, a stage when the last has ended.

    They are copies of one process that has run the first job, and so loaded the kernels: a copy takes milliseconds.
    """
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=perform_here, args=(there, warm[0]))
    process.start()
    there.close()

    def perform(jobs: list[Job], stages: list[list[Attempt]]) -> list[list[Ended]]:
        assert all(job.config.backend.threads == 1 for job in jobs), "a process with threads must not be copied"
        here.send((jobs, stages))
        assert here.poll(300), "the attempts came to no end"
        return here.recv()

    try:
        yield perform
    finally:
        process.kill()
        process.join()


def perform_here(asked: Connection, warm: Job) -> None:
    with tempfile.TemporaryDirectory() as name:
        said = Path(name)
        with (said / "warm").open("w") as file, redirect_stdout(file), redirect_stderr(file):
            run(said, [warm])
        while True:
            jobs, stages = asked.recv()
            asked.send([at_once(jobs, attempts, said) for attempts in stages])


def at_once(jobs: list[Job], attempts: list[Attempt], said: Path) -> list[Ended]:
    gate, key = os.pipe()
    started: list[tuple[int, Path]] = []
    for number, attempt in enumerate(attempts):
        file = said / str(number)
        pid = os.fork()
        if pid == 0:
            os.close(key)
            os.read(gate, 1)  # until all have been made
            attempt_and_exit(jobs, attempt, file)
        started.append((pid, file))
    os.close(gate)
    os.close(key)
    return [Ended(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file.read_text()) for pid, file in started]


def attempt_and_exit(jobs: list[Job], attempt: Attempt, said: Path) -> NoReturn:
    """As the program does: an exit code, and a sentence for what is no bug."""
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    sys.stdout = sys.stderr = os.fdopen(output, "w", buffering=1)
    done = meeting(attempt.event, attempt.after)
    train_members = runner.train_members

    def telling(members: list[Member], *rest: Any) -> None:
        print("TRAINS", *(member.folder.path.name for member in members))
        train_members(members, *rest)

    runner.train_members = telling
    code = 99
    try:
        outcomes = run(attempt.folder, jobs, attempt.most)
        print("FAILED", *(number for number, outcome in sorted(outcomes.items()) if outcome.error is not None))
        code = 0
    except Interrupted as stop:
        code = stop.exit_code
    except Exception as error:
        code = report(error)
    finally:
        print(f"OPERATIONS {done()}")
        os._exit(code)


def meeting(event: str, after: int) -> Callable[[], int]:
    """Have the event happen before this process's operation number `after`; returns what counts the operations."""
    done = 0

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        is_of_file = name == "open" or name.startswith(("os.", "shutil."))
        if not is_of_file or not any(isinstance(a, str) and str(FOLDER) in a for a in map(plain, arguments)):
            return
        if event != "full disk":
            if done == after:
                os.kill(os.getpid(), signal.Signals[event])
        elif done >= after and (name == "os.mkdir" or (name == "open" and arguments[2] & WRITING)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += 1

    sys.addaudithook(watch)
    return lambda: done


def plain(argument: Any) -> Any:
    return os.fspath(argument) if isinstance(argument, os.PathLike) else argument


def folders(folder: Path) -> dict[str, Path]:
    """The folders of a sweep's jobs by name, whatever is in them."""
    return {path.name: path for path in sorted((folder / FOLDER).iterdir()) if path.is_dir() and path.name != ".locks"}


def left_by(run: Path) -> dict[str, Any]:
    """Everything that a run leaves, but for where, when and how fast it was: files byte by byte."""
    record = read_record(run)
    kept = {key: value for key, value in record.items() if key not in OF_THE_PLACE}
    kept["config"] = {key: value for key, value in record["config"].items() if key != "outputs_dir"}
    kept["error"] = record["error"] and record["error"].replace(str(run), "")
    kept["metrics"] = {key: value for key, value in (record["metrics"] or {}).items() if key not in RATES}
    timed = "train_state.json", "checksums.json"  # with seconds in them
    files = {
        str(path.relative_to(run)): b"" if path.name in timed else path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in ("run.json", ".lock")
    }
    keys = sorted(record.keys() - {"resumed", "earlier_failures"})
    return {"keys": keys, "record": kept, "files": files, "links": links(run)}


def links(run: Path) -> dict[str, str]:
    if not (run / "checkpoint").exists():
        return {}
    return {path.name: str(path.readlink()) for path in (run / "checkpoint").iterdir() if path.is_symlink()}
