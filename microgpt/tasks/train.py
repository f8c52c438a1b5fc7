"""task=train: one run from its configuration to its record."""

import random
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from microgpt.assembly import (
    Beginning,
    begin,
    model_spec,
    optimizer_spec,
    read_corpus,
    sampling_policy,
    schedule_of,
    workload,
)
from microgpt.atomic import write_atomically
from microgpt.checkpoint import Checkpoint, CheckpointStore, Meta, TrainState, load_checkpoint, resolve_checkpoint
from microgpt.config import Config, config_hash
from microgpt.data.corpus import Corpus
from microgpt.engines import make_engine
from microgpt.engines.base import Engine
from microgpt.errors import Interrupted, MicrogptError, UserError
from microgpt.generation import encode_prompt, generate, phrase_rate
from microgpt.model.spec import ModelSpec
from microgpt.record import Invocation, new_record, timestamp, write_record
from microgpt.runs import HISTORY, RECORD, SAMPLES, Place, RunFolder, claim, find_completed, place_of_run
from microgpt.training.guards import MemoryDriftGuard, StopRequest, stop_on_signals
from microgpt.training.history import History
from microgpt.training.loop import Plan, Training
from microgpt.training.metrics import bits_per_character, console_line, mean, perplexity
from microgpt.training.progress import Progress

Record = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """What a run works on, read and checked before anything is written."""

    config: Config
    corpus: Corpus
    spec: ModelSpec
    beginning: Beginning
    prompt: list[int]
    leg_from: Checkpoint | None  # train.resume=<folder>: the checkpoint that this run trains on from


def train(config: Config, invocation: Invocation) -> float:
    """Train, sample, record. Returns val_loss, or the mean of the last losses where there is no validation."""
    inputs = read_inputs(config)
    digest = config_hash(config)
    place = place_of_run(config.outputs_dir, digest, inputs.corpus.source.sha256, invocation.job)
    if invocation.job is not None and config.train.resume == "auto":
        done = find_completed(place)
        if done is not None:
            print(f"job {invocation.job[1]} has been completed in {done['folder']}: not run again")
            return objective(done["metrics"])
    with stop_on_signals() as stop:
        folder = claim(place, config.train.resume == "auto", config.train.keep_checkpoints)
        try:
            return run_in_folder(inputs, invocation, place, folder, stop)
        finally:
            folder.release()


def read_inputs(config: Config) -> Inputs:
    """Read everything that a run needs. Raises UserError; nothing has been written by then."""
    corpus = read_corpus(config)
    spec = model_spec(config, corpus.tokenizer.vocab_size)
    prompt = encode_prompt(config.sample.prompt, corpus.tokenizer, spec.block_size)
    leg_from = None
    if config.train.resume not in ("auto", "never"):
        leg_from = load_checkpoint(resolve_checkpoint(config.train.resume, config.outputs_dir))
        refuse_misfit(leg_from, spec, corpus)
    beginning = begin(config.seed, corpus, spec, config.train.batch_size, config.style.share)
    return Inputs(config, corpus, spec, beginning, prompt, leg_from)


def refuse_misfit(checkpoint: Checkpoint, spec: ModelSpec, corpus: Corpus) -> None:
    """Raises UserError with the reason why a checkpoint cannot be trained on with this data and this model."""
    where = f"checkpoint {checkpoint.path} does not fit"
    if checkpoint.meta.chars != corpus.tokenizer.chars:
        ours, theirs = "".join(corpus.tokenizer.chars), "".join(checkpoint.meta.chars)
        raise UserError(f"{where} the data: its characters are {theirs!r}, those of the data and the style {ours!r}")
    for key, value in spec.to_dict().items():
        found = checkpoint.meta.spec.to_dict()[key]
        if found != value and key not in ("init_std", "zero_init_residual"):  # how it once began does not matter
            raise UserError(f"{where} the model: model.{key} is {found} in the checkpoint and {value} here")


def run_in_folder(
    inputs: Inputs, invocation: Invocation, place: Place, folder: RunFolder, stop: StopRequest
) -> float:
    record = first_record(inputs, invocation, place, folder)
    path = folder.path / RECORD
    write_record(path, record)
    try:
        engine, state = execute(inputs, folder, record, stop)
        finish(inputs, record, engine, state, stop)
        if stop:
            raise Interrupted(stop.signal_number or 0)
        record["status"] = "completed"
    except KeyboardInterrupt:
        record |= {"status": "interrupted", "error": f"stopped by signal {stop.signal_number}" if stop else "stopped"}
        print(f"interrupted: the same command goes on from the last checkpoint in {folder.path}", flush=True)
        raise
    except BaseException as error:
        record |= {"status": "failed", "error": describe(error)}
        raise
    finally:
        record["finished_at"] = timestamp()
        write_record(path, record)
    write_atomically(folder.path / SAMPLES, "".join(f"{sample}\n" for sample in record["samples"]))
    print_end(record, folder.path)
    return objective(record["metrics"])


def describe(error: BaseException) -> str:
    """The sentence of an explained failure, the traceback of a bug."""
    return str(error) if isinstance(error, MicrogptError) else "".join(traceback.format_exception(error)).rstrip()


def first_record(inputs: Inputs, invocation: Invocation, place: Place, folder: RunFolder) -> Record:
    config, corpus, spec = inputs.config, inputs.corpus, inputs.spec
    run_id = str(folder.path.relative_to(place.outputs))
    record = new_record(config, invocation, run_id)
    record["data"] = {
        "name": corpus.source.name,
        "sha256": corpus.source.sha256,
        "documents": corpus.documents,
        "train_documents": corpus.train.documents,
        "val_documents": corpus.val.documents,
        "train_examples": len(corpus.train.examples),
        "evaluated_documents": len(evaluation_examples(config, corpus)),
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
    if inputs.leg_from is not None:
        before = inputs.leg_from.train
        record["leg"] = {"from": str(inputs.leg_from.path), "first_step": before.first_step + before.step}
    if folder.earlier is not None:
        record["started_at"] = folder.earlier.get("started_at")
        resumed = {"at": timestamp(), "step": folder.checkpoint.train.step if folder.checkpoint else 0}
        record["resumed"] = [*folder.earlier.get("resumed", []), resumed]
    return record


def evaluation_examples(config: Config, corpus: Corpus) -> list[list[int]]:
    return corpus.val.examples[: config.train.eval_documents]


def execute(inputs: Inputs, folder: RunFolder, record: Record, stop: StopRequest) -> tuple[Engine, TrainState]:
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
    state.total_steps, state.steps = schedule.total_steps, config.train.steps

    work = workload(corpus, [beginning.order])
    engine = make_engine(config.backend.name, spec, optimizer_spec(config.optim), work, engine_state)
    record |= {**asdict(engine.info)}
    history = History(folder.path / HISTORY)
    history.rewind(state.step)
    training = Training(
        engine=engine,
        plan=Plan(
            steps=config.train.steps,
            first_step=state.first_step,
            lr=config.optim.lr,
            schedule=schedule,
            val_examples=evaluation_examples(config, corpus),
            log_every=config.train.log_every,
            eval_every=config.train.eval_every,
            checkpoint_every=config.train.checkpoint_every,
            last_n=config.train.last_n,
        ),
        workload=work,
        state=state,
        meta=Meta(spec, corpus.tokenizer.chars, engine.info.dtype, config.model.name, asdict(config.style)),
        checkpoints=CheckpointStore(folder.checkpoints, config.train.keep_checkpoints),
        history=history,
        progress=Progress(config.train.steps, state.step),
        stop=stop,
        memory=MemoryDriftGuard(config.train.max_memory_growth) if config.train.max_memory_growth else None,
    )
    print_beginning(inputs, record, training)
    try:
        with training.progress:
            training.run()
    finally:
        record["metrics"] = metrics(inputs, state)
        record["timings"] = {
            "compile": 0.0,
            "train": state.train_seconds,
            "evaluate": state.evaluate_seconds,
            "checkpoint": state.checkpoint_seconds,
        }
    return engine, state


def metrics(inputs: Inputs, state: TrainState) -> dict[str, Any]:
    """F5's figures; rates leave out evaluation and disk, and no warm-up step, since plain Python needs none."""
    config = inputs.config
    seconds, val_loss = state.train_seconds, state.val_loss
    return {
        "parameter_count": inputs.spec.parameter_count(),
        "steps": state.step,
        "final_loss": state.recent_losses[-1] if state.recent_losses else None,
        "mean_loss_last_n": mean(state.recent_losses),
        "last_n": config.train.last_n,
        "val_loss": val_loss,
        "first_val_loss": state.first_val_loss,
        "best_val_loss": state.best_val_loss,
        "best_step": state.best_step,
        "bits_per_character": None if val_loss is None else bits_per_character(val_loss),
        "perplexity": None if val_loss is None else perplexity(val_loss),
        "steps_per_sec": state.step / seconds if seconds else 0.0,
        "tokens_per_sec": state.tokens / seconds if seconds else 0.0,
        "rate_warmup_steps": 0,
        "train_tokens": inputs.corpus.train.tokens,
        "tokens_seen": state.tokens,
        "vocab_size": inputs.spec.vocab_size,
    }


def finish(inputs: Inputs, record: Record, engine: Engine, state: TrainState, stop: StopRequest) -> None:
    """What is measured on the trained model: samples, the style's effect, the untrained baseline of steps=0."""
    if stop:
        return
    figures = record["metrics"]
    if state.step == 0:
        first_batch = [workload(inputs.corpus, []).examples[i] for i in inputs.beginning.order.batch(0)]
        figures["final_loss"] = figures["mean_loss_last_n"] = float(engine.evaluate(first_batch)[0])
    draw = sampler(inputs, engine, stop)
    record["samples"] = draw(biased=True)
    style = inputs.config.style
    if style.documents or style.phrases:
        figures["style"] = {
            "documents": len(style.documents),
            "train_documents": inputs.corpus.style_train.documents,
            "val_documents": inputs.corpus.style_val.documents,
            "share": inputs.beginning.order.style_share,
            "train_loss": style_loss(engine, inputs.corpus.style_train.examples),
            "val_loss": style_loss(engine, inputs.corpus.style_val.examples),
            "bias": style.bias,
            "phrase_rate": phrase_rate(record["samples"], style.phrases),
            "phrase_rate_without_bias": phrase_rate(draw(biased=False), style.phrases),
        }


def style_loss(engine: Engine, examples: list[list[int]]) -> float | None:
    return float(engine.evaluate(examples)[0]) if examples else None


def sampler(inputs: Inputs, engine: Engine, stop: StopRequest) -> Callable[[bool], list[str]]:
    """A function that draws the run's samples, with the style's bias or without, always from the same random state."""
    sample = inputs.config.sample
    policy = sampling_policy(sample, inputs.config.style)
    beginning = inputs.beginning.rng if sample.seed is None else random.Random(sample.seed)
    start = beginning.getstate()

    def draw(biased: bool) -> list[str]:
        rng = random.Random()
        rng.setstate(start)
        samples = []
        for _ in range(sample.num_samples):
            if stop:
                break
            drawn = generate(
                lambda: engine.decoder(0), inputs.corpus.tokenizer, inputs.spec.block_size, inputs.prompt,
                policy if biased else policy.without_bias(), rng,
            )  # fmt: skip
            samples.append(sample.prompt + drawn.text)
        return samples

    return draw


def objective(figures: dict[str, Any]) -> float:
    """What an optimizing sweeper minimises."""
    return figures["mean_loss_last_n"] if figures["val_loss"] is None else figures["val_loss"]


def print_beginning(inputs: Inputs, record: Record, training: Training) -> None:
    corpus, data = inputs.corpus, record["data"]
    print(f"num docs: {corpus.documents}")
    print(f"vocab size: {inputs.spec.vocab_size}")
    print(f"num params: {inputs.spec.parameter_count()}")
    if corpus.val.documents:
        print(f"split: {corpus.train.documents} train, {corpus.val.documents} validation documents, "
              f"{data['evaluated_documents']} evaluated")  # fmt: skip
    if corpus.long_documents:
        policy = inputs.config.data.long_documents
        done = {"truncate": "cut", "window": "read in windows", "skip": "left out"}[policy]
        print(f"long documents: {corpus.long_documents} of {corpus.documents} exceed the block and are {done}")
    if inputs.leg_from is not None:
        schedule = training.plan.schedule
        print(f"training on from step {training.plan.first_step} ({inputs.leg_from.path}): {training.plan.steps} steps, "
              f"schedule {schedule.name} anew from lr {training.plan.lr} over {schedule.total_steps} steps")  # fmt: skip
    print(f"backend={record['backend']} device={record['device']} using_gpu={str(record['using_gpu']).lower()} "
          f"dtype={record['dtype']}", flush=True)  # fmt: skip


def print_end(record: Record, path: Path) -> None:
    if record["samples"]:
        print("--- samples ---")
    for number, sample in enumerate(record["samples"], 1):
        print(f"sample {number:2d}: {sample}")
    style = record["metrics"].get("style")
    if style and style["phrase_rate"] is not None:
        print(f"style {record['style']}: a phrase in {style['phrase_rate']:.0%} of the samples, "
              f"in {style['phrase_rate_without_bias']:.0%} of those drawn without its bias")  # fmt: skip
    print(f"files: {path}")
    figures = record["metrics"]
    print(console_line({
        "mode": record["mode"],
        "model": record["config"]["model"]["name"],
        "style": record["style"],
        "backend": record["backend"],
        "device": record["device"],
        "using_gpu": record["using_gpu"],
        "tie_lm_head": record["model"]["tie_lm_head"],
        "input_rmsnorm": record["model"]["input_rmsnorm"],
        "params": figures["parameter_count"],
        "steps": figures["steps"],
        "final_loss": figures["final_loss"],
        "val_loss": figures["val_loss"],
        f"mean_loss_last_{figures['last_n']}": figures["mean_loss_last_n"],
        "steps_per_sec": figures["steps_per_sec"],
        "tokens_per_sec": figures["tokens_per_sec"],
        "vocab_size": figures["vocab_size"],
        "train_tokens": figures["train_tokens"],
    }), flush=True)  # fmt: skip
