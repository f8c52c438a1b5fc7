"""Runs from their folders to their records: one, or several of one shape that an engine trains side by side.

Whatever happens, every run's record says how it ended. What ends one run alone (a loss that is not a number) leaves the
others; what ends the process's work (a signal, a full disk) ends them all.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from microgpt.atomic import write_atomically
from microgpt.engines import make_engine
from microgpt.engines.base import Engine, EngineInfo, EngineState
from microgpt.errors import RECORDED_IN, Interrupted, MicrogptError, NonFiniteError, describe
from microgpt.runs.checkpoint import CheckpointStore
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.runs.folders import HISTORY, SAMPLES, RunFolder
from microgpt.runs.history import History
from microgpt.runs.record import (
    DataSummary,
    Invocation,
    LongDocuments,
    ModelSummary,
    RunRecord,
    Timings,
    timestamp,
)
from microgpt.training.assembly import Inputs, optimizer_spec, schedule_of, workload
from microgpt.training.evaluation import measure, metrics, style_losses
from microgpt.training.guards import MemoryDriftGuard, StopRequest
from microgpt.training.loggers import LoggerOptions, NoLogger, RunLogger, make_logger
from microgpt.training.loop import Observer, Plan, Run, Training
from microgpt.training.resumption import add_past, remark_on_the_past


@dataclass
class Member:
    """A run that this process holds: what it works on, where it writes, and what ended it before its end."""

    inputs: Inputs
    folder: RunFolder
    record: RunRecord
    checkpoints: CheckpointStore = field(init=False)
    run: Run = field(init=False)
    logger: RunLogger = field(default_factory=NoLogger)
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self.checkpoints = CheckpointStore(self.folder.checkpoints, self.inputs.config.train.keep_checkpoints)

    def fail(self, error: Exception) -> None:
        self.failure = error
        self.record.status, self.record.error = "failed", describe(error)
        error.add_note(f"{RECORDED_IN} {self.folder.path}")


class DiskError(MicrogptError):
    """A disk that takes no more: what was saved is good, and the same command goes on once there is room."""


class Display(Observer, Protocol):
    """Who is told what a training does."""

    def say(self, line: str) -> None: ...
    def begin(self, members: list[Member]) -> None: ...
    def end(self, member: Member) -> None: ...
    def stop(self) -> None:
        """The training proper has ended, well or not."""
        ...


def train_members(members: list[Member], stop: StopRequest, display: Display) -> None:
    """Train, sample and write all of it down. The members have one shape and stand at the same step.

    A member that fails alone has its `failure`. Raises what ended all of them: Interrupted, DiskError, or what makes
    them fail; their records are written by then.
    """
    try:
        for member in members:
            add_past(member.record, member.inputs, member.folder)
            member.record.write(member.folder.path)
        if remark := remark_on_the_past([m.record for m in members if m.folder.checkpoint is not None], len(members)):
            display.say(remark)
        engine = execute(members, stop, display)
        if not stop:
            measure_members(members, engine, stop)
        if stop:
            raise Interrupted(stop.signal_number or 0)
        for member in alive(members):
            samples = "".join(f"{sample}\n" for sample in member.record.samples)
            write_atomically(member.folder.path / SAMPLES, samples)
            member.record.status = "completed"
    except KeyboardInterrupt:
        end_all(members, "interrupted", f"stopped by signal {stop.signal_number}" if stop else "stopped")
        raise
    except BrokenPipeError as error:
        end_all(members, "interrupted", "standard output was closed")
        error.add_note(f"{RECORDED_IN} {members[0].folder.path}")
        raise
    except OSError as error:
        first = members[0]
        reason = f"{first.folder.path}: {error.strerror or error}; {first.checkpoints.where_newest()}"
        end_all(members, "interrupted", reason)
        failure = DiskError(reason)
        failure.add_note(f"{RECORDED_IN} {first.folder.path}")
        raise failure from error
    except BaseException as error:
        end_all(members, "failed", describe(error))
        error.add_note(f"{RECORDED_IN} {members[0].folder.path}")
        raise
    finally:
        write_records(members)
    for member in alive(members):
        display.end(member)


def first_record(inputs: Inputs, config_hash: str, invocation: Invocation) -> RunRecord:
    """What is known of a run before it trains."""
    config, corpus, spec = inputs.config, inputs.corpus, inputs.spec
    record = RunRecord.new(asdict(config), config_hash, invocation)
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


def alive(members: list[Member]) -> list[Member]:
    return [member for member in members if member.failure is None]


def end_all(members: list[Member], status: str, reason: str) -> None:
    for member in alive(members):
        if member.record.status == "running":
            member.record.status, member.record.error = status, reason


def write_records(members: list[Member]) -> None:
    """All of them, also where one cannot be written: then that error is raised at the end."""
    failure = None
    for member in members:
        member.record.finished_at = timestamp()
        try:
            member.record.write(member.folder.path)
        except OSError as error:
            failure = error
        member.logger.finish(member.record.document())
    if failure is not None:
        raise failure


def execute(members: list[Member], stop: StopRequest, display: Display) -> Engine:
    """Train, from wherever the runs stand. Fills the records as far as the training came, also when it fails."""
    first = members[0].inputs
    config, corpus = first.config, first.corpus
    standing = [where_it_stands(member) for member in members]
    work = workload(corpus, [member.inputs.beginning.order for member in members])
    together = EngineState.together([engine_state for _, engine_state in standing])
    engine = make_engine(first.options, first.spec, optimizer_spec(config.optim), work, together, display.say)
    for member, (state, _) in zip(members, standing, strict=True):
        add_engine(member.record, engine.info, len(members))
        member.run = run_of(member, state, engine)
    training = Training(
        engine=engine,
        plan=Plan(
            steps=config.train.steps,
            first_step=standing[0][0].first_step,
            val_examples=first.val_examples,
            log_every=config.train.log_every,
            eval_every=config.train.eval_every,
            checkpoint_every=config.train.checkpoint_every,
            last_n=config.train.last_n,
        ),
        workload=work,
        runs=[member.run for member in members],
        progress=display,
        stop=stop,
        memory=MemoryDriftGuard(config.train.max_memory_growth) if config.train.max_memory_growth else None,
    )
    display.begin(members)
    try:
        training.run()
    finally:
        display.stop()
        for member in members:
            take_results(member, engine)
    return engine


def where_it_stands(member: Member) -> tuple[Progress, EngineState]:
    """Where a run's training begins or goes on."""
    inputs, folder, record = member.inputs, member.folder, member.record
    beginning, config = inputs.beginning, inputs.config
    state = Progress(
        seed=config.seed, data_sha256=inputs.corpus.source.sha256, config_hash=record.config_hash,
        rng_state=list(beginning.rng.getstate()),
    )  # fmt: skip
    engine_state = beginning.state
    if folder.checkpoint is not None:
        state, engine_state = folder.checkpoint.progress, folder.checkpoint.state
    elif inputs.leg_from is not None:
        engine_state = inputs.leg_from.state
        assert record.leg is not None
        state.first_step = record.leg.first_step
    state.total_steps, state.steps = schedule_of(config).total_steps, config.train.steps
    state.optimizer = config.optim.name
    return state, engine_state


def run_of(member: Member, state: Progress, engine: Engine) -> Run:
    inputs, config = member.inputs, member.inputs.config
    history = History(member.folder.path / HISTORY)
    history.rewind(state.step)
    dtype = "float32" if engine.info.dtype == "bfloat16" else engine.info.dtype  # bfloat16 is that of products alone
    tokenizer = inputs.corpus.tokenizer
    style = asdict(config.style)
    meta = Meta(inputs.spec, tokenizer.chars, dtype, config.model.name, style, tokenizer.special)
    options = LoggerOptions(config.logger.name, config.logger.project, Path(config.outputs_dir))
    member.logger = make_logger(options, member.folder.path, member.record.document(), history.lines())
    return Run(config.optim.lr, schedule_of(config), state, meta, member.checkpoints, history, member.logger.log)


def add_engine(record: RunRecord, info: EngineInfo, group: int) -> None:
    """Where it ran, and how many runs the engine trained side by side."""
    record.backend, record.backend_reason = info.backend, info.reason
    record.device, record.using_gpu = info.device, info.using_gpu
    record.dtype, record.kernel = info.dtype, info.kernel
    record.threads, record.processes = info.threads, info.processes
    record.group = group


def take_results(member: Member, engine: Engine) -> None:
    """What the training of a run came to. Times are its share of what the runs of its engine took together."""
    state = member.run.state
    member.record.metrics = metrics(member.inputs, state)
    member.record.timings = Timings(
        compile=engine.compile_seconds,
        train=state.train_seconds,
        evaluate=state.evaluate_seconds,
        checkpoint=state.checkpoint_seconds,
    )
    if member.run.failure is not None:
        member.fail(member.run.failure)


def measure_members(members: list[Member], engine: Engine, stop: StopRequest) -> None:
    """Samples and the style's effect; a model that is too large to compute with fails alone."""
    losses = style_losses(engine, members[0].inputs.corpus)
    for replica, member in enumerate(members):
        if member.failure is not None:
            continue
        try:
            measure(member.inputs, member.record, engine, replica, losses, stop)
        except NonFiniteError as error:
            steps, where = member.run.state.step, member.checkpoints.where_newest()
            member.fail(NonFiniteError(f"after step {steps} {error}; {where}"))
