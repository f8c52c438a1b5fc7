"""Train runs, from their folders to their records: one run, or several of one shape side by side in one engine.

The record always contains how a run ended. A non-finite loss ends only its run; a signal or a full disk ends all runs.
"""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from microgpt.atomic import write_all_atomically
from microgpt.config.keys import as_plain
from microgpt.data.display import samples_file
from microgpt.engines import make_engine
from microgpt.engines.base import Engine, EngineInfo, EngineState, Workload
from microgpt.errors import RECORDED_IN, Interrupted, MicrogptError, NonFiniteError, describe, place_of
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.runs.checkpoint_store import CheckpointStore
from microgpt.runs.folders import HISTORY, SAMPLES, RunFolder
from microgpt.runs.history import History
from microgpt.runs.invocation import Invocation
from microgpt.runs.record import RECORD, DataSummary, LongDocuments, ModelSummary, RunRecord, Timings, timestamp
from microgpt.training.evaluation import final_evaluation, style_losses, training_metrics
from microgpt.training.from_config import (
    checkpoint_seconds,
    chooses_checkpoints,
    keeps_optimizer_state,
    make_schedule,
    optimizer_spec,
)
from microgpt.training.guards import MemoryDriftGuard, StopRequest
from microgpt.training.loggers import LoggedRun, RunLogger, make_logger
from microgpt.training.loop import Observer, Training
from microgpt.training.replica import Plan, Replica
from microgpt.training.resumption import continue_record, provenance_note, starting_state
from microgpt.training.run_inputs import RunInputs


@dataclass
class TrainingRun:
    """A run that this process trains."""

    inputs: RunInputs
    folder: RunFolder
    record: RunRecord
    is_job: bool = False  # of a sweep
    checkpoints: CheckpointStore = field(init=False)
    replica: Replica = field(init=False)
    logger: RunLogger = field(default_factory=RunLogger)
    failure: Exception | None = None  # a failure that ends only this run
    is_recorded: bool = False  # whether the record of this attempt is in the folder

    def __post_init__(self) -> None:
        continue_record(self.record, self.inputs, self.folder)
        train = self.inputs.config.train
        at_end = train.keep_checkpoints if chooses_checkpoints(train) else 1  # independent of the training time
        keep_state = keeps_optimizer_state(train, self.is_job)
        self.checkpoints = CheckpointStore(self.folder.checkpoints, train.keep_checkpoints, at_end, keep_state)

    def begin_record(self) -> None:
        """Write the record of a run that has begun. Not flushed: if a power cut loses it, there is no result either."""
        if not self.is_recorded:
            self.is_recorded = True
            write_all_atomically({self.folder.path / RECORD: self.record.text()}, durable=False)

    def fail(self, error: Exception) -> None:
        self.failure = error
        self.record.status, self.record.error = "failed", describe(error)
        error.add_note(f"{RECORDED_IN} {self.folder.path}")


class DiskError(MicrogptError):
    """Writing failed. Saved files are intact, and the same command resumes the run once there is space on the disk."""


class Console(Observer, Protocol):
    """The terminal output of training."""

    def print(self, line: str) -> None: ...
    def begin(self, runs: list[TrainingRun]) -> None: ...
    def end(self, run: TrainingRun) -> None: ...
    def stop(self) -> None:
        """Remove the progress bar after the last step, a stop or a failure."""
        ...


def train_runs(runs: list[TrainingRun], stop: StopRequest, console: Console) -> None:
    """Train and evaluate runs of one shape and one starting step, and write their records.

    The error of a run that fails by itself is stored in its `failure`. An error that ends all runs (Interrupted,
    DiskError, any other error) is raised after their records are written.
    """
    try:
        for run in runs:
            run.begin_record()
        resumed = [run.record for run in runs if run.folder.checkpoint is not None]
        if note := provenance_note(resumed, len(runs)):
            console.print(note)
        engine = train(runs, stop, console)
        if not stop:
            evaluate(runs, engine, stop)
        if stop:
            raise Interrupted(stop.signal_number or 0)
        for run in active(runs):
            run.record.status = "completed"
    except KeyboardInterrupt:
        end_all(runs, "interrupted", f"stopped by signal {stop.signal_number}" if stop else "stopped")
        raise
    except BrokenPipeError as error:
        end_all(runs, "interrupted", "standard output was closed")
        error.add_note(f"{RECORDED_IN} {runs[0].folder.path}")
        raise
    except OSError as error:
        first = runs[0]
        reason = (
            f"{place_of(error, str(first.folder.path))}: {error.strerror or error}; {first.checkpoints.where_newest()}"
        )
        end_all(runs, "interrupted", reason)
        failure = DiskError(reason)
        failure.add_note(f"{RECORDED_IN} {first.folder.path}")
        raise failure from error
    except BaseException as error:
        end_all(runs, "failed", describe(error))
        error.add_note(f"{RECORDED_IN} {runs[0].folder.path}")
        raise
    finally:
        write_records(runs)
    for run in active(runs):
        console.end(run)


def train(runs: list[TrainingRun], stop: StopRequest, console: Console) -> Engine:
    """Train the runs from their starting states.

    Adds the results up to the last step to their records, even if an error ends training.
    """
    first = runs[0].inputs
    config = first.config
    states = [starting_state(run.inputs, run.folder, run.record) for run in runs]
    workload = Workload(first.corpus.examples, [run.inputs.initial.order for run in runs])
    together = EngineState.stack([engine_state for engine_state, _ in states])
    engine = make_engine(first.options, first.spec, optimizer_spec(config.optim), workload, together, console.print)
    for run, (_, progress) in zip(runs, states, strict=True):
        record_engine(run.record, engine.info, len(runs))
        run.replica = new_replica(run, progress, engine.info)
    training = Training(
        engine=engine,
        plan=Plan(
            steps=config.train.steps,
            first_step=states[0][1].first_step,
            val_examples=first.val_examples,
            log_every=config.train.log_every,
            eval_every=config.train.eval_every,
            checkpoint_every=config.train.checkpoint_every,
            checkpoint_seconds=checkpoint_seconds(config.train),
            last_n=config.train.last_n,
        ),
        workload=workload,
        replicas=[run.replica for run in runs],
        observer=console,
        stop=stop,
        memory=MemoryDriftGuard(config.train.max_memory_growth) if config.train.max_memory_growth else None,
    )
    console.begin(runs)
    try:
        training.run()
    finally:
        console.stop()
        for run in runs:
            record_training(run, engine.compile_seconds)
    return engine


def new_replica(run: TrainingRun, progress: Progress, engine: EngineInfo) -> Replica:
    """Return the run's replica for the training loop. Cuts the history back to the progress and starts the logger."""
    inputs, config, folder = run.inputs, run.inputs.config, run.folder
    history = History(folder.path / HISTORY)
    history.rewind(progress.step)
    logger = LoggedRun(config.logger.name, config.logger.project, folder.outputs, folder.path, run.record)
    run.logger = make_logger(logger, history.lines())
    return Replica(
        lr=config.optim.lr,
        schedule=make_schedule(config),
        progress=progress,
        meta=Meta(
            spec=inputs.spec,
            chars=inputs.corpus.tokenizer.chars,
            dtype="float32" if engine.dtype == "bfloat16" else engine.dtype,  # bfloat16 is used only in matrix products
            model=config.model.name,
            style=vars(config.style),
            special=inputs.corpus.tokenizer.special,
        ),
        checkpoints=run.checkpoints,
        history=history,
        logger=run.logger,
    )


def evaluate(runs: list[TrainingRun], engine: Engine, stop: StopRequest) -> None:
    """Add the final evaluation to the records. A run fails only if its weights are so large that a loss overflows."""
    losses = style_losses(engine, runs[0].inputs.corpus)
    for index, run in enumerate(runs):
        if run.failure is not None:
            continue
        try:
            final_evaluation(run.inputs, run.record, engine, index, losses, stop)
        except NonFiniteError as error:
            step, where = run.replica.progress.step, run.checkpoints.where_newest()
            run.fail(NonFiniteError(f"after step {step} {error}; {run.replica.remedy(math.inf)}; {where}"))


def active(runs: list[TrainingRun]) -> list[TrainingRun]:
    return [run for run in runs if run.failure is None]


def end_all(runs: list[TrainingRun], status: str, reason: str) -> None:
    for run in active(runs):
        if run.record.status == "running":
            run.record.status, run.record.error = status, reason


def new_record(inputs: RunInputs, config_hash: str, invocation: Invocation) -> RunRecord:
    """Return the record of a run that has not started."""
    config, corpus, spec = inputs.config, inputs.corpus, inputs.spec
    record = RunRecord.new(as_plain(config), config_hash, invocation)
    record.data = DataSummary(
        name=corpus.source.name,
        sha256=corpus.source.sha256,
        documents=corpus.documents,
        train_documents=corpus.train.documents,
        val_documents=corpus.val.documents,
        train_examples=len(corpus.train.examples),
        evaluated_documents=min(corpus.val.documents, config.train.eval_documents or corpus.val.documents),
        train_tokens=corpus.train.tokens,
        vocab_size=spec.vocab_size,
        long_documents=LongDocuments(config.data.long_documents, corpus.long_documents),
        conversations=corpus.conversations,
        baselines=inputs.baselines,
    )
    record.model = ModelSummary(spec.kind, spec.parameter_count(), spec.tie_lm_head, spec.input_rmsnorm)
    return record


def record_engine(record: RunRecord, info: EngineInfo, group: int) -> None:
    record.backend, record.backend_reason = info.backend, info.reason
    record.device, record.using_gpu = info.device, info.using_gpu
    record.dtype, record.kernel = info.dtype, info.kernel
    record.threads, record.processes = info.threads, info.processes
    record.group = group


def record_training(run: TrainingRun, compile_seconds: float) -> None:
    """Add metrics, timings and failure. Times are the run's share of the total time of the runs of its engine."""
    progress = run.replica.progress
    run.record.metrics = training_metrics(run.inputs, progress)
    run.record.timings = Timings(
        compile=compile_seconds,
        train=progress.train_seconds,
        evaluate=progress.evaluate_seconds,
        checkpoint=progress.checkpoint_seconds,
    )
    if run.replica.failure is not None:
        run.fail(run.replica.failure)


def write_records(runs: list[TrainingRun]) -> None:
    """Write the record of every run and the samples of completed ones, even if a file cannot be written."""
    failure = None
    for run in runs:
        run.record.finished_at = timestamp()
    try:
        write_all_atomically({path: text for run in runs for path, text in final_files(run).items()})
    except OSError as error:
        failure = error
        for run in runs:
            with suppress(OSError):
                write_all_atomically(final_files(run))
    for run in runs:
        run.logger.finish(run.record)
    if failure is not None:
        raise failure


def final_files(run: TrainingRun) -> dict[Path, str]:
    """Return the content of the files that are written only at the end of a run."""
    files = {run.folder.path / SAMPLES: samples_file(run.record.samples)} if run.record.status == "completed" else {}
    return {**files, run.folder.path / RECORD: run.record.text()}
