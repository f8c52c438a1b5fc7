"""The starting point of a run (its seed, its own checkpoint or another run's), and how the record describes it."""

from microgpt.engines.base import EngineState
from microgpt.runs.checkpoint_format import Progress, generator_state
from microgpt.runs.folders import RunFolder
from microgpt.runs.record import Failure, Leg, Resumption, RunRecord, timestamp
from microgpt.training.from_config import make_schedule
from microgpt.training.run_inputs import RunInputs


def starting_state(inputs: RunInputs, folder: RunFolder, record: RunRecord) -> tuple[EngineState, Progress]:
    """Return the training state from which a run starts: weights and optimizer state, and progress."""
    config, checkpoint = inputs.config, folder.checkpoint
    if checkpoint is not None:
        engine_state, progress = checkpoint.state, checkpoint.progress
    else:
        engine_state = inputs.initial.engine_state
        progress = Progress(
            seed=config.seed,
            data_sha256=inputs.corpus.source.sha256,
            config_hash=record.config_hash,
            rng_state=generator_state(inputs.initial.rng),
        )
        if inputs.leg_from is not None:
            assert record.leg is not None
            engine_state, progress.first_step = inputs.leg_from.state, record.leg.first_step
    progress.total_steps, progress.steps = make_schedule(config).total_steps, config.train.steps
    progress.optimizer = config.optim.name
    return engine_state, progress


def continue_record(record: RunRecord, inputs: RunInputs, folder: RunFolder) -> None:
    """Record which checkpoint the run continues, and the failures and resumptions in the folder's earlier record."""
    record.run_id = folder.run_id
    if inputs.leg_from is not None:
        before = inputs.leg_from.progress
        has_moments = bool(inputs.leg_from.state.m)
        record.leg = Leg(
            from_=str(inputs.leg_from.path),
            first_step=before.first_step + before.step if has_moments else 0,  # Adam's bias correction starts again
            optimizer_state=has_moments,
            other_data=inputs.other_data,
        )
    earlier = folder.earlier
    if earlier is None:
        return
    record.earlier_failures = earlier.earlier_failures
    if earlier.status == "failed":  # this attempt starts from the beginning in the same folder
        record.earlier_failures = [*record.earlier_failures, Failure(earlier.finished_at, earlier.error)]
        return
    if folder.checkpoint is not None and earlier.leg is not None:  # by now, train.resume=latest may be another run
        record.leg = earlier.leg
    record.started_at = earlier.started_at
    step = folder.checkpoint.progress.step if folder.checkpoint else 0
    record.resumed = [*earlier.resumed, Resumption(timestamp(), step, earlier.provenance())]


def provenance_note(records: list[RunRecord], runs: int) -> str | None:
    """Return a note if the first part of some of `runs` runs was trained by other code or on another machine.

    `records` are the records of the runs that resume from their own checkpoints.
    """
    changed = sum(record.resumed[-1].before != record.provenance() for record in records)
    if not changed:
        return None
    which = "this run" if runs == 1 else f"{changed} runs"
    return f"note: the first part of {which} was trained by other code or on another machine; see `resumed` in run.json"
