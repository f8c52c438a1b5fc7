"""task=train: one run from its configuration to its record."""

import traceback
from dataclasses import asdict
from typing import Any

from microgpt.assembly import Inputs, optimizer_spec, read_inputs, schedule_of, workload
from microgpt.atomic import write_atomically
from microgpt.checkpoint import CheckpointStore
from microgpt.checkpoint_format import Meta, TrainState
from microgpt.config import Config, config_hash
from microgpt.console import print_beginning, print_end
from microgpt.engines import make_engine
from microgpt.engines.base import Engine, EngineInfo
from microgpt.errors import RECORDED_IN, Interrupted, MicrogptError, UserError
from microgpt.measure import measure, metrics, objective
from microgpt.record import RECORD, Invocation, new_record, timestamp, write_record
from microgpt.runs import HISTORY, SAMPLES, RunFolder, claim, find_completed, place_of_run
from microgpt.training.guards import MemoryDriftGuard, StopRequest, stop_on_signals
from microgpt.training.history import History
from microgpt.training.loop import Plan, Training
from microgpt.training.progress import Progress

Record = dict[str, Any]


def train(config: Config, invocation: Invocation) -> float:
    """Train, sample, record. Returns what an optimizing sweeper minimises."""
    if invocation.job is not None and config.train.resume == "latest":
        raise UserError("train.resume=latest is another checkpoint for each job of a sweep: name the folder")
    inputs = read_inputs(config)
    place = place_of_run(config.outputs_dir, config_hash(config), inputs.corpus.source.sha256, invocation.job)
    if invocation.job is not None and config.train.resume != "never":
        done = find_completed(place)
        if done is not None:
            print(f"job {invocation.job[1]} has been completed in {done['folder']}: not run again")
            return objective(done["metrics"])
    record = first_record(inputs, invocation)
    with stop_on_signals() as stop:
        folder = claim(place, config.train.resume != "never", config.train.keep_checkpoints)
        try:
            record["run_id"] = str(folder.path.relative_to(place.outputs))
            return run_in_folder(inputs, record, folder, stop)
        finally:
            folder.release()


def run_in_folder(inputs: Inputs, record: Record, folder: RunFolder, stop: StopRequest) -> float:
    """Train, sample and write all of it down, however it ends."""
    add_past(record, inputs, folder)
    path = folder.path / RECORD
    write_record(path, record)
    checkpoints = CheckpointStore(folder.checkpoints, inputs.config.train.keep_checkpoints)
    try:
        engine = execute(inputs, folder, record, checkpoints, stop)
        if not stop:
            measure(inputs, record, engine, stop, checkpoints)
        if stop:
            raise Interrupted(stop.signal_number or 0)
        write_atomically(folder.path / SAMPLES, "".join(f"{sample}\n" for sample in record["samples"]))
        record["status"] = "completed"
    except KeyboardInterrupt:
        record |= {"status": "interrupted", "error": f"stopped by signal {stop.signal_number}" if stop else "stopped"}
        again = "" if inputs.config.train.resume == "never" else "; the same command goes on from there"
        print(f"interrupted: the last checkpoint is in {folder.path}{again}", flush=True)
        raise
    except BrokenPipeError:
        record |= {"status": "interrupted", "error": "standard output was closed"}
        raise
    except OSError as error:  # a full disk: what was saved is good, and the same command goes on once there is room
        reason = f"{folder.path}: {error.strerror or error}; {checkpoints.where_newest()}"
        record |= {"status": "interrupted", "error": reason}
        failure = MicrogptError(reason)
        failure.add_note(f"{RECORDED_IN} {folder.path}")
        raise failure from error
    except BaseException as error:
        record |= {"status": "failed", "error": describe(error)}
        error.add_note(f"{RECORDED_IN} {folder.path}")
        raise
    finally:
        record["finished_at"] = timestamp()
        write_record(path, record)
    print_end(record, folder.path)
    return objective(record["metrics"])


def describe(error: BaseException) -> str:
    """The sentence of an explained failure, the traceback of a bug."""
    return str(error) if isinstance(error, MicrogptError) else "".join(traceback.format_exception(error)).rstrip()


def first_record(inputs: Inputs, invocation: Invocation) -> Record:
    config, corpus, spec = inputs.config, inputs.corpus, inputs.spec
    record = new_record(asdict(config), config_hash(config), invocation)
    record["data"] = {
        "name": corpus.source.name,
        "sha256": corpus.source.sha256,
        "documents": corpus.documents,
        "train_documents": corpus.train.documents,
        "val_documents": corpus.val.documents,
        "train_examples": len(corpus.train.examples),
        "evaluated_documents": min(corpus.val.documents, config.train.eval_documents or corpus.val.documents),
        "train_tokens": corpus.train.tokens,
        "vocab_size": spec.vocab_size,
        "long_documents": {"policy": config.data.long_documents, "count": corpus.long_documents},
    }
    record["model"] = {
        "kind": spec.kind,
        "parameter_count": spec.parameter_count(),
        "tie_lm_head": spec.tie_lm_head,
        "input_rmsnorm": spec.input_rmsnorm,
    }
    return record


def dtype_of(engine: Engine) -> str:
    """Of its parameters: bfloat16 is that of the products alone."""
    return "float32" if engine.info.dtype == "bfloat16" else engine.info.dtype


def said(line: str) -> None:
    print(line, flush=True)


def add_engine(record: Record, info: EngineInfo) -> None:
    facts = asdict(info)
    record["backend_reason"] = facts.pop("reason")
    record |= facts


def add_past(record: Record, inputs: Inputs, folder: RunFolder) -> None:
    """What came before this process: the run that this leg trains on from, and the stops of this run itself."""
    if inputs.leg_from is not None:
        before = inputs.leg_from.train
        record["leg"] = {"from": str(inputs.leg_from.path), "first_step": before.first_step + before.step}
    if folder.earlier is not None:
        if folder.checkpoint is not None and "leg" in folder.earlier:  # `latest` may mean another checkpoint by now
            record["leg"] = folder.earlier["leg"]
        record["started_at"] = folder.earlier.get("started_at")
        resumed = {"at": timestamp(), "step": folder.checkpoint.train.step if folder.checkpoint else 0}
        earlier = {"git": folder.earlier.get("git"), "environment": folder.earlier.get("environment")}
        record["resumed"] = [*folder.earlier.get("resumed", []), {**resumed, "before": earlier}]
        if folder.checkpoint is not None and earlier != {key: record[key] for key in earlier}:
            print(
                "note: the first part of this run was trained by other code or elsewhere; run.json says which (resumed)"
            )


def execute(
    inputs: Inputs, folder: RunFolder, record: Record, checkpoints: CheckpointStore, stop: StopRequest
) -> Engine:
    """Train, from wherever this run stands. Fills the record as far as the training came, also when it fails."""
    config, corpus, spec, beginning = inputs.config, inputs.corpus, inputs.spec, inputs.beginning
    state = TrainState(
        seed=config.seed, data_sha256=corpus.source.sha256, config_hash=record["config_hash"],
        rng_state=list(beginning.rng.getstate()),
    )  # fmt: skip
    engine_state = beginning.state
    if folder.checkpoint is not None:
        state, engine_state = folder.checkpoint.train, folder.checkpoint.state
        print(f"resuming {folder.path} at step {state.step}")
    elif inputs.leg_from is not None:
        engine_state = inputs.leg_from.state
        state.first_step = record["leg"]["first_step"]
    schedule = schedule_of(config)
    state.total_steps, state.steps, state.optimizer = schedule.total_steps, config.train.steps, config.optim.name

    work = workload(corpus, [beginning.order])
    engine = make_engine(inputs.options, spec, optimizer_spec(config.optim), work, engine_state, said)
    add_engine(record, engine.info)
    history = History(folder.path / HISTORY)
    history.rewind(state.step)
    training = Training(
        engine=engine,
        plan=Plan(
            steps=config.train.steps,
            first_step=state.first_step,
            lr=config.optim.lr,
            schedule=schedule,
            val_examples=inputs.val_examples,
            log_every=config.train.log_every,
            eval_every=config.train.eval_every,
            checkpoint_every=config.train.checkpoint_every,
            last_n=config.train.last_n,
        ),
        workload=work,
        state=state,
        meta=Meta(spec, corpus.tokenizer.chars, dtype_of(engine), config.model.name, asdict(config.style)),
        checkpoints=checkpoints,
        history=history,
        progress=Progress(config.train.steps, state.step),
        stop=stop,
        memory=MemoryDriftGuard(config.train.max_memory_growth) if config.train.max_memory_growth else None,
    )
    print_beginning(inputs, record)
    try:
        with training.progress:
            training.run()
    finally:
        record["metrics"] = metrics(inputs, state)
        record["timings"] = {
            "compile": engine.compile_seconds,
            "train": state.train_seconds,
            "evaluate": state.evaluate_seconds,
            "checkpoint": state.checkpoint_seconds,
        }
    return engine
