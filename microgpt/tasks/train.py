"""task=train: one run from its configuration to its record, alone or as a job of a sweep."""

from pathlib import Path

from microgpt.config.identity import config_hash
from microgpt.config.schema import Config
from microgpt.runs.folders import claim
from microgpt.runs.record import Invocation, RunIdentity
from microgpt.sweeps.groups import Job
from microgpt.sweeps.runner import SweepRunner
from microgpt.training.console import RunConsole
from microgpt.training.evaluation import objective
from microgpt.training.guards import stop_on_signals
from microgpt.training.inputs import InputReader
from microgpt.training.runner import TrainingRun, new_record, train_runs


def train(config: Config, invocation: Invocation) -> float:
    """Train one run, or a job of a sweep. Returns the loss that an optimizing sweeper minimises."""
    if invocation.job is not None:
        return train_job(config, invocation.overrides, *invocation.job)
    inputs, digest, resume = InputReader().inputs(config), config_hash(config), config.train.resume != "never"
    identity = RunIdentity(digest, inputs.corpus.source.sha256)
    with stop_on_signals() as stop:
        folder = claim(Path(config.outputs_dir), identity, resume, config.train.keep_checkpoints)
        run = TrainingRun(inputs, folder, new_record(inputs, digest, invocation))
        try:
            train_runs([run], stop, RunConsole(run))
        except KeyboardInterrupt:
            again = "; the same command goes on from there" if resume else ""
            print(f"interrupted: the last checkpoint is in {folder.path}{again}", flush=True)
            raise
        finally:
            folder.release()
    if run.failure is not None:
        raise run.failure
    return objective(run.record.metrics)


def train_job(config: Config, overrides: tuple[str, ...], sweep: str, number: int) -> float:
    """Train a job that a launcher runs alone."""
    with stop_on_signals() as stop:
        outcome = SweepRunner(Path(sweep), [Job(number, config, overrides)]).run(stop)[number]
    if outcome.error is not None:
        raise outcome.error
    return outcome.objective
