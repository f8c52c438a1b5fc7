"""task=train: trains one run, alone or as a job of a sweep."""

from dataclasses import replace
from pathlib import Path

from microgpt.config.identity import config_hash
from microgpt.config.keys import with_absolute_paths
from microgpt.config.schema import Config
from microgpt.runs.folders import claim, claim_named
from microgpt.runs.invocation import Invocation
from microgpt.runs.record import RunIdentity
from microgpt.sweeps.checked_job import StartedJob
from microgpt.sweeps.folder import job_identity
from microgpt.sweeps.groups import Job
from microgpt.sweeps.runner import SweepRunner
from microgpt.training.console import RunConsole
from microgpt.training.evaluation import objective
from microgpt.training.guards import stop_on_signals
from microgpt.training.run_inputs import InputReader
from microgpt.training.runner import TrainingRun, new_record, train_runs


def train(config: Config, invocation: Invocation) -> float:
    """Train one run, or a job of a sweep. Returns the loss that an optimizing sweeper minimizes."""
    started = start(config, invocation)
    try:
        value = started.run()
    finally:
        started.release()
    assert value is not None
    return value


def start(config: Config, invocation: Invocation) -> StartedJob:
    """Read the data and lock a folder for the run. Raises UserError."""
    if invocation.job is not None:
        return start_job(config, invocation)
    inputs, digest, resume = InputReader().inputs(config), config_hash(config), config.train.resume != "never"
    identity, outputs = RunIdentity(digest, inputs.corpus.source.sha256), invocation.directory / config.outputs_dir
    keep = config.train.keep_checkpoints
    if invocation.folder is None:
        folder = claim(outputs, identity, resume, keep)
    else:
        folder = claim_named(invocation.directory / invocation.folder, outputs, identity, resume, keep)
    run = TrainingRun(inputs, folder, new_record(inputs, digest, invocation))
    again = ""
    if resume:  # with ${now:...} in hydra.run.dir, the next command would use another folder
        named = "" if invocation.folder is None else f" with hydra.run.dir={folder.path}"
        again = f"; the same command{named} continues from there"
    return StartedJob(lambda: train_run(run, again), folder.path, folder.release)


def train_run(run: TrainingRun, again: str) -> float:
    """Train a run in its locked folder. `again` is the text about continuing the run after an interruption.

    Returns the loss that an optimizing sweeper minimizes.
    """
    with stop_on_signals() as stop:
        try:
            train_runs([run], stop, RunConsole(run))
        except KeyboardInterrupt:
            print(f"interrupted: the last checkpoint is in {run.folder.path}{again}", flush=True)
            raise
    if run.failure is not None:
        raise run.failure
    return objective(run.record.metrics)


def start_job(config: Config, invocation: Invocation) -> StartedJob:
    """Find the folder of a job that a launcher runs alone. The folder is not locked before the job runs."""
    place = invocation.job
    assert place is not None
    if invocation.directory != Path():  # the job reads its checkpoint later, in another working directory
        train = with_absolute_paths(config, invocation.directory).train
        config = replace(config, train=train)
    job = Job(place.number, config, invocation.overrides, place.name, place.trial is not None)
    runner = SweepRunner(place.sweep, [job])
    identity = job_identity(config, runner.reader.corpus(config).source.sha256)
    folder = runner.sweep.folder_for(identity, job.folder_name, job.resumes)
    return StartedJob(lambda: train_job(runner, job), folder)


def train_job(runner: SweepRunner, job: Job) -> float:
    with stop_on_signals() as stop:
        outcome = runner.run(stop)[job.number]
    if outcome.error is not None:
        raise outcome.error
    return outcome.objective
