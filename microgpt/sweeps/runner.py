"""Runs the jobs of a sweep, or a worker's share of them. Completed jobs are kept; the others are trained in groups.

Several processes may run one sweep: each trains the jobs that no other process holds, then waits for the rest.
"""

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from microgpt.config.hydra_errors import report
from microgpt.config.keys import as_plain
from microgpt.engines.auto_backend import is_on_gpu
from microgpt.errors import Interrupted, MicrogptError, UserError, is_recorded, place_of
from microgpt.runs.invocation import Invocation, SweepJob
from microgpt.runs.record import RunRecord, timestamp
from microgpt.sweeps.failures import FailedJob, record_failures, report_by_cause, report_first
from microgpt.sweeps.folder import JobIdentity, SweepFolder, job_identity, lockable
from microgpt.sweeps.groups import Job, group, most_together, shape_of
from microgpt.sweeps.lifecycle import current_sweep
from microgpt.training.console import RunConsole, SweepConsole
from microgpt.training.evaluation import objective
from microgpt.training.from_config import model_spec
from microgpt.training.guards import StopRequest
from microgpt.training.run_inputs import InputReader, RunInputs
from microgpt.training.runner import DiskError, TrainingRun, new_record, train_runs

POLL_SECONDS = 0.2  # between checks of jobs that another process holds


@dataclass(frozen=True)
class Outcome:
    """The value that an optimizing sweeper minimizes, or NaN and the error."""

    objective: float = float("nan")
    error: Exception | None = None

    @property
    def result(self) -> Any:
        """The value that the sweeper minimizes, or the exception that ended the job."""
        return self.objective if self.error is None else self.error


class SweepRunner:
    """Runs jobs of the sweep in `folder`, at most `max_group` of them side by side."""

    def __init__(self, folder: Path, jobs: list[Job], max_group: int | None = None, reader: InputReader | None = None):
        self.sweep = SweepFolder(folder)
        self.started = timestamp()
        self.jobs = sorted(jobs, key=lambda job: job.number)
        self.max_group = max_group
        self.reader = reader or InputReader()
        # All dictionaries are keyed by job number.
        self.identities: dict[int, JobIdentity] = {}
        self.duplicates: dict[int, int] = {}  # a job -> the first job with the same identity
        self.states: dict[int, str] = {}  # of jobs that are not duplicates, before this process trains them
        self.ended: dict[int, Outcome] = {}
        self.folders: dict[int, Path] = {}  # of jobs that are being trained or have been trained

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """The outcomes of the jobs that have ended, including duplicates."""
        return self.ended | {n: self.ended[first] for n, first in self.duplicates.items() if first in self.ended}

    def run(self, stop: StopRequest) -> dict[int, Outcome]:
        """Run the jobs and return all outcomes. Raises Interrupted, and MicrogptError if files cannot be written."""
        try:
            jobs = self.read_jobs()
            if jobs:
                with self.sweep.held():
                    self.sweep.refresh()
                    self.train_all(jobs, stop)
            for job in self.jobs:
                if (first := self.duplicates.get(job.number)) in self.folders:
                    job.hydra.repeat(self.folders[first], self.ended[first].result)
        except Interrupted:
            done = sum(outcome.error is None for outcome in self.outcomes.values())
            again = current_sweep().how_to_continue
            print(f"interrupted: {done} of {len(self.jobs)} jobs are completed; {again}")
            raise
        except BrokenPipeError:
            raise
        except OSError as error:  # a record cannot be written, so the records of other jobs could not be either
            raise DiskError(f"{place_of(error, str(self.sweep.path))}: {error.strerror or error}") from error
        return self.outcomes

    def find_failures(self, on_this_machine: bool = True) -> dict[int, Exception]:
        """Identify the jobs by configuration and data. Returns the errors of jobs that cannot run.

        Writes nothing. A missing library or device is an error only if the jobs are to run `on_this_machine`.
        """
        errors: dict[int, Exception] = {}
        first: dict[JobIdentity, int] = {}
        for job in self.jobs:
            with job.hydra.in_environment():
                try:
                    if job.config.train.resume == "latest":
                        raise UserError(
                            "train.resume=latest is not allowed in a sweep: each job would change the latest "
                            "checkpoint; set the folder of a run"
                        )
                    identity = job_identity(job.config, self.reader.corpus(job.config).source.sha256)
                    self.identities[job.number] = identity
                    if identity in first:  # the same values occur twice in the sweep
                        self.duplicates[job.number] = first[identity]
                        continue
                    state = self.sweep.state(identity, job.overrides) if job.resumes else "new"
                    if state != "completed":
                        self.reader.check(job.config, on_this_machine)
                    first[identity], self.states[job.number] = job.number, state
                except Exception as error:
                    errors[job.number] = error
        return errors

    def read_jobs(self) -> list[Job]:
        """Record and report the jobs that cannot run, print the number of jobs, and return the jobs to train."""
        errors = self.find_failures()
        if errors:
            with self.sweep.creating_folders():
                record_failures(self.failed(job, errors[job.number]) for job in self.jobs if job.number in errors)
            report_by_cause(errors)
            self.ended |= {number: Outcome(error=error) for number, error in errors.items()}
        jobs = [job for job in self.jobs if job.number in self.states]
        for job in jobs:
            if self.states[job.number] == "completed":
                self.take_completed(job)
        print(f"sweep {self.sweep.path}: {self.counts(Counter(self.states.values()), len(errors))}", flush=True)
        return [job for job in jobs if self.states[job.number] != "completed"]

    def counts(self, states: Counter[str], failed: int) -> str:
        """Return the text with the number of jobs in each state."""
        rare = {
            "that another process runs": states["running"],
            "the same as another": len(self.duplicates),
            "failed just now": failed,
        }
        counts = [
            f"{len(self.jobs)} job{'' if len(self.jobs) == 1 else 's'}",
            f"{states['completed']} completed before",
            f"{states['interrupted']} to resume",
            f"{states['failed']} failed before and run again",
            f"{states['new']} new",
            *(f"{number} {kind}" for kind, number in rare.items() if number),
        ]
        return ", ".join(counts)

    def train_all(self, jobs: list[Job], stop: StopRequest) -> None:
        console = SweepConsole(len(jobs), sum(job.config.train.steps for job in jobs))
        is_waiting = False
        while jobs:
            held_elsewhere = []
            for together in group(jobs, shape_and_environment, self.group_size):
                with together[0].hydra.in_environment():
                    left = self.train_group(together, console, stop)
                steps = together[0].config.train.steps  # equal in a group
                console.done(len(together) - len(left), steps * (len(together) - len(left)))
                held_elsewhere += left
            jobs = held_elsewhere
            if jobs:
                if not is_waiting:
                    console.print(f"waiting for {len(jobs)} jobs that another process runs")
                is_waiting = True
                time.sleep(POLL_SECONDS)

    def group_size(self, job: Job) -> int:
        config = job.config
        with job.hydra.in_environment():
            spec = model_spec(config, self.reader.corpus(config).tokenizer.vocab_size)
            return lockable(most_together(config, spec, is_on_gpu(self.reader.options(config)), self.max_group))

    def train_group(self, jobs: list[Job], console: SweepConsole, stop: StopRequest) -> list[Job]:
        """Train the jobs that no other process holds. Returns the jobs held by another process."""
        if stop:
            raise Interrupted(stop.signal_number or 0)
        with ExitStack() as locks:
            held = {job.number: lock for job in jobs if (lock := self.sweep.lock(self.identities[job.number]))}
            for lock in held.values():
                locks.callback(lock.release)
            if self.sweep.is_shared():
                self.sweep.refresh()
            own = [job for job in jobs if job.number in held and not self.has_ended_elsewhere(job)]
            ready = [(job, *found) for job in own if (found := self.read(job)) is not None]
            with self.sweep.creating_folders():
                runs = [(job, self.prepare(job, inputs, record, held[job.number])) for job, inputs, record in ready]
            for job, run in runs:
                self.folders[job.number] = run.folder.path
                job.hydra.start(run.folder.path)
            for together in group(runs, lambda pair: step_of(pair[1]), lambda pair: len(jobs)):
                self.train_together(together, console, stop)
        return [job for job in jobs if job.number not in held]

    def has_ended_elsewhere(self, job: Job) -> bool:
        """Return whether another process has run the job since this process started; if so, store the outcome."""
        identity = self.identities[job.number]
        since = [one for one in self.sweep.attempts_at(identity) if one.finished_at >= self.started]
        if self.sweep.completed(identity) and (job.resumes or any(one.status == "completed" for one in since)):
            self.take_completed(job)
        elif any(one.status == "failed" for one in since):
            self.ended[job.number] = Outcome(error=MicrogptError("the job failed in another process"))
        return job.number in self.ended

    def take_completed(self, job: Job) -> None:
        """Store the outcome of a completed job from its record."""
        completed = self.sweep.completed(self.identities[job.number])
        assert completed is not None
        self.ended[job.number] = Outcome(objective(completed.metrics))
        self.folders[job.number] = completed.path
        job.hydra.repeat(completed.path, self.ended[job.number].result)
        if self.sweep.has_failed_before_start(job.overrides):
            with self.sweep.creating_folders():
                self.sweep.forget_failures(job.overrides)

    def read(self, job: Job) -> tuple[RunInputs, RunRecord] | None:
        """Return the inputs and the record of a job; if it cannot start, report the error and return None."""
        try:
            inputs = self.reader.inputs(job.config)
            return inputs, new_record(inputs, self.identities[job.number].config_hash, self.invocation(job))
        except Exception as error:
            self.fail(job, error)
            return None

    def prepare(self, job: Job, inputs: RunInputs, record: RunRecord, lock: FileLock) -> TrainingRun:
        """Return the run of a job whose lock is held, in its folder. Must be called within `creating_folders`."""
        self.sweep.forget_failures(job.overrides)
        identity, keep = self.identities[job.number], job.config.train.keep_checkpoints
        folder = self.sweep.claim(identity, job.folder_name, lock, job.resumes, keep)
        run = TrainingRun(inputs, folder, record, is_job=True)
        run.begin_record()
        return run

    def train_together(self, runs: list[tuple[Job, TrainingRun]], console: SweepConsole, stop: StopRequest) -> None:
        """Train runs in one engine. An error fails only these runs, unless files can no longer be written."""
        alone = len(runs) == 1
        if alone:
            job = runs[0][0]
            print(f"job {job.number}: {' '.join(job.overrides)}", flush=True)
        failure: Exception | None = None
        try:
            train_runs([run for _, run in runs], stop, RunConsole(runs[0][1]) if alone else console)
        except (OSError, DiskError):
            raise
        except Exception as error:  # recorded in the runs that had not failed individually
            failure = error
        others, diverged = [], {}
        for job, run in runs:
            if run.failure is not None:
                diverged[job.number] = run.failure
                self.take_failure(job, run.failure)
            elif failure is None:
                self.ended[job.number] = Outcome(objective(run.record.metrics))
            else:
                self.ended[job.number] = Outcome(error=failure)
                others.append(str(job.number))
            job.hydra.end(self.ended[job.number].result)
        report_first(diverged)
        if failure is not None:
            report(failure, prefix=f"job{'' if len(others) == 1 else 's'} {', '.join(others)}: ")

    def fail(self, job: Job, error: Exception) -> None:
        """Report a failed job, and record the failure unless the run has recorded it."""
        self.take_failure(job, error)
        report(error, prefix=f"job {job.number}: ")

    def take_failure(self, job: Job, error: Exception) -> None:
        """Store the outcome of a failed job, and record the failure unless the run has recorded it."""
        if not is_recorded(error):
            with self.sweep.creating_folders():
                record_failures([self.failed(job, error)])
        self.ended[job.number] = Outcome(error=error)

    def failed(self, job: Job, error: Exception) -> FailedJob:
        return FailedJob(error, self.invocation(job), as_plain(job.config), job.hydra)

    def invocation(self, job: Job) -> Invocation:
        trial = job.number if job.is_trial else None
        return Invocation(job.overrides, SweepJob(self.sweep.path, job.number, job.folder_name, trial))


def shape_and_environment(job: Job) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return a key that is equal for jobs that one process can train side by side."""
    return shape_of(job.config), job.hydra.environment


def step_of(run: TrainingRun) -> tuple[int, int]:
    """Return the step at which a run starts: only runs at the same step can be trained together."""
    checkpoint = run.folder.checkpoint
    return (0, -1) if checkpoint is None else (checkpoint.progress.step, checkpoint.progress.first_step)
