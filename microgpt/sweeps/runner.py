"""The jobs of a sweep, or a share of them: those that are done stay, the others are trained in groups of one shape.

Several processes may work on one sweep: each takes the jobs that no other holds, and waits for the rest at the end.
Knows nothing of Hydra, so that any launcher's workers can call it.
"""

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from microgpt.config.hydra_errors import report
from microgpt.config.identity import config_hash
from microgpt.config.schema import Config
from microgpt.engines.choice import is_on_gpu
from microgpt.errors import RECORDED_IN, Interrupted, MicrogptError, UserError
from microgpt.inference.loading import engine_options
from microgpt.runs.folders import record_failed_job
from microgpt.runs.record import Invocation, timestamp
from microgpt.sweeps.folder import JobIdentity, SweepFolder, most_held
from microgpt.sweeps.groups import Job, group, most_together, shape_of
from microgpt.training.assembly import InputReader, model_spec
from microgpt.training.console import RunDisplay, SweepDisplay
from microgpt.training.evaluation import objective
from microgpt.training.guards import StopRequest
from microgpt.training.runner import DiskError, Member, first_record, train_members

POLL_SECONDS = 0.2  # between looks at jobs that another process holds


@dataclass(frozen=True)
class Outcome:
    """What became of a job: what an optimizing sweeper minimises, or NaN and the error."""

    objective: float = float("nan")
    error: Exception | None = None


@dataclass(frozen=True)
class Todo:
    """A job that has been read, and what it computes."""

    job: Job
    identity: JobIdentity
    resume: bool


class Work:
    """Jobs of the sweep in `folder`; `most` limits how many are trained side by side."""

    def __init__(self, folder: Path, jobs: list[Job], most: int | None = None, threads: int | None = None):
        self.sweep = SweepFolder(folder)
        self.started = timestamp()
        self.jobs = jobs
        self.most = most
        self.reader = InputReader()
        self.reader.threads = threads
        self.outcomes: dict[int, Outcome] = {}
        self.told_of_waiting = False
        self.twins: dict[JobIdentity, list[int]] = {}  # the numbers of the jobs that compute the same

    def run(self, stop: StopRequest) -> dict[int, Outcome]:
        """All jobs' outcomes by number. Raises Interrupted, and MicrogptError where nothing can be written any more."""
        try:
            todo = self.begin()
            if todo:
                with self.sweep.attended():
                    self.train_all(todo, stop)
        except Interrupted:
            done = sum(outcome.error is None for outcome in self.of_twins().values())
            print(f"interrupted: {done} of {len(self.jobs)} jobs are completed; the same command goes on from there")
            raise
        except BrokenPipeError:
            raise
        except OSError as error:  # records that cannot be written: neither could those of other jobs
            raise DiskError(f"{self.sweep.path}: {error.strerror or error}") from error
        self.outcomes = self.of_twins()
        return self.outcomes

    def of_twins(self) -> dict[int, Outcome]:
        """The outcomes, also of jobs that compute what another one does."""
        known = {numbers[0]: numbers[1:] for numbers in self.twins.values()}
        return self.outcomes | {
            other: self.outcomes[first] for first, others in known.items() if first in self.outcomes for other in others
        }

    def train_all(self, todo: list[Todo], stop: StopRequest) -> None:
        display = SweepDisplay(len(todo), sum(each.job.config.train.steps for each in todo))
        while todo:
            busy = []
            for chunk in self.chunks(todo):
                left = self.train(chunk, display, stop)
                ended = [each.job.config.train.steps for each in chunk if each not in left]
                display.done(len(ended), sum(ended))
                busy += left
            todo = busy
            if todo:
                self.wait(todo, display)

    def begin(self) -> list[Todo]:
        """Read what the jobs compute, say what there is of them already; returns those that are to be run."""
        found: dict[str, list[Todo]] = {key: [] for key in ("completed", "running", "stopped", "failed", "new")}
        for job in self.jobs:
            resume = job.config.train.resume
            try:
                if resume == "latest":
                    raise UserError(
                        f"train.resume={resume} is another checkpoint for each job of a sweep: name the folder"
                    )
                identity = JobIdentity(config_hash(job.config), self.reader.corpus(job.config).source.sha256)
            except Exception as error:
                self.fail(job, error)
                continue
            todo = Todo(job, identity, resume != "never")
            if identity in self.twins:  # the same value twice in one sweep
                self.twins[identity].append(job.number)
                continue
            self.twins[identity] = [job.number]
            found[self.sweep.state(identity, job.overrides) if todo.resume else "new"].append(todo)
        for todo in found.pop("completed"):
            self.note_completed(todo)
        print(f"sweep {self.sweep.path}: {self.counts({key: len(those) for key, those in found.items()})}", flush=True)
        return sorted((todo for those in found.values() for todo in those), key=lambda todo: todo.job.number)

    def counts(self, found: dict[str, int]) -> str:
        """How many jobs there are, and how many of each kind; together they are all jobs."""
        failed = sum(outcome.error is not None for outcome in self.outcomes.values())
        rare = {
            "that another process runs": found["running"],
            "the same as another": len(self.jobs) - len(self.twins) - failed,
            "failed just now": failed,
        }
        counts = [
            f"{len(self.jobs)} job{'' if len(self.jobs) == 1 else 's'}",
            f"{len(self.outcomes) - failed} completed before",
            f"{found['stopped']} to resume",
            f"{found['failed']} failed before and run again",
            f"{found['new']} new",
            *(f"{number} {kind}" for kind, number in rare.items() if number),
        ]
        return ", ".join(counts)

    def chunks(self, todo: list[Todo]) -> list[list[Todo]]:
        """Jobs that are trained side by side."""
        return group(todo, lambda each: shape_of(each.job.config), lambda each: self.most_together(each.job.config))

    def most_together(self, config: Config) -> int:
        corpus = self.reader.corpus(config)
        spec = model_spec(config, corpus.tokenizer.vocab_size)
        try:
            options = engine_options(config, spec, corpus.train.tokens / len(corpus.train.examples))
            return most_held(most_together(config, spec, is_on_gpu(options), self.most))
        except UserError:  # what this machine cannot do: each of the jobs fails with the sentence
            return 1

    def note_completed(self, todo: Todo) -> None:
        done = self.sweep.completed(todo.identity)
        assert done is not None
        self.outcomes[todo.job.number] = Outcome(objective(done.metrics))
        if self.sweep.has_never_begun(todo.job.overrides):
            with self.sweep.making_folders():
                self.sweep.forget_failures(todo.job.overrides)

    def fail(self, job: Job, error: Exception) -> None:
        """Tell of a job that failed, and record it unless its run did."""
        if not any(note.startswith(RECORDED_IN) for note in getattr(error, "__notes__", [])):
            with self.sweep.making_folders():
                record_failed_job(asdict(job.config), self.invocation(job), error)
        report(error, prefix=f"job {job.number}: ")
        self.outcomes[job.number] = Outcome(error=error)

    def fail_together(self, together: list[tuple[Todo, Member]], error: Exception) -> None:
        """Tell once of what made a group's runs fail; their records do."""
        numbers = [todo.job.number for todo, member in together if member.failure is None]
        report(error, prefix=f"job{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers))}: ")
        self.outcomes |= {number: Outcome(error=error) for number in numbers}

    def invocation(self, job: Job) -> Invocation:
        return Invocation(job.overrides, (str(self.sweep.path), job.number))

    def train(self, chunk: list[Todo], display: SweepDisplay, stop: StopRequest) -> list[Todo]:
        """Train the jobs of a chunk that no other process holds; returns those that one does."""
        if stop:
            raise Interrupted(stop.signal_number or 0)
        with ExitStack() as held:
            locks = {each.identity: self.sweep.lock(each.identity) for each in chunk}
            for lock in filter(None, locks.values()):
                held.callback(lock.release)
            self.sweep.refresh()
            members = []
            for each in chunk:
                lock = locks[each.identity]
                if lock is not None and not self.is_done_elsewhere(each):
                    members += self.member(each, lock)
            for together in group(members, lambda one: step_of(one[1]), lambda one: len(chunk)):
                self.train_together(together, display, stop)
        return [each for each in chunk if locks[each.identity] is None]

    def is_done_elsewhere(self, todo: Todo) -> bool:
        """Whether another process has run a job since this one began; then notes what became of it."""
        since = [one for one in self.sweep.of(todo.identity) if one.finished_at >= self.started]
        if self.sweep.completed(todo.identity) and (todo.resume or any(one.status == "completed" for one in since)):
            self.note_completed(todo)
            return True
        if any(one.status == "failed" for one in since):
            self.outcomes[todo.job.number] = Outcome(error=MicrogptError("it failed in another process"))
            return True
        return False

    def member(self, todo: Todo, lock: FileLock) -> list[tuple[Todo, Member]]:
        """The run of a job whose lock is held; nothing where it cannot begin."""
        job, train = todo.job, todo.job.config.train
        try:
            inputs = self.reader.inputs(job.config)
            record = first_record(inputs, todo.identity.config_hash, self.invocation(job))
        except Exception as error:
            self.fail(job, error)
            return []
        with self.sweep.making_folders():
            self.sweep.forget_failures(job.overrides)
            folder = self.sweep.claim(todo.identity, job.number, lock, todo.resume, train.keep_checkpoints)
            member = Member(inputs, folder, record)
            if folder.earlier is None:
                record.write(folder.path)
        return [(todo, member)]

    def train_together(self, together: list[tuple[Todo, Member]], display: SweepDisplay, stop: StopRequest) -> None:
        """One engine's runs. What ends the process's work is raised; anything else fails these runs alone."""
        members = [member for _, member in together]
        alone = len(together) == 1
        if alone:
            job = together[0][0].job
            print(f"job {job.number}: {' '.join(job.overrides)}", flush=True)
        ended: Exception | None = None
        try:
            train_members(members, stop, RunDisplay(members[0]) if alone else display)
        except (OSError, DiskError):
            raise
        except Exception as error:
            ended = error
        for todo, member in together:
            if member.failure is not None:
                self.fail(todo.job, member.failure)
            elif ended is None:
                self.outcomes[todo.job.number] = Outcome(objective(member.record.metrics))
        if ended is not None:
            self.fail_together(together, ended)

    def wait(self, todo: list[Todo], display: SweepDisplay) -> None:
        """Other processes hold these jobs: give them time."""
        if not self.told_of_waiting:
            display.say(f"waiting for {len(todo)} jobs that another process runs")
            self.told_of_waiting = True
        time.sleep(POLL_SECONDS)


def step_of(member: Member) -> tuple[int, int]:
    """Where a run stands: only runs that stand at one step can go on together."""
    checkpoint = member.folder.checkpoint
    return (0, -1) if checkpoint is None else (checkpoint.progress.step, checkpoint.progress.first_step)
