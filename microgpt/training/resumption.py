"""What a run's record says of what came before this process. Knows nothing of how a run goes on."""

from microgpt.runs.folders import RunFolder
from microgpt.runs.record import Failure, Leg, Resumption, RunRecord, timestamp
from microgpt.training.assembly import Inputs


def add_past(record: RunRecord, inputs: Inputs, folder: RunFolder) -> None:
    """What came before this process: the run that this leg trains on from, and the stops of this run itself."""
    record.run_id = folder.run_id
    if inputs.leg_from is not None:
        before = inputs.leg_from.progress
        record.leg = Leg(
            from_=str(inputs.leg_from.path),
            first_step=before.first_step + before.step,
            optimizer_state=bool(inputs.leg_from.state.m),
        )
    earlier = folder.earlier
    if earlier is None:
        return
    record.earlier_failures = earlier.earlier_failures
    if earlier.status == "failed":  # begun anew in its folder
        record.earlier_failures = [*record.earlier_failures, Failure(earlier.finished_at, earlier.error)]
        return
    if folder.checkpoint is not None and earlier.leg is not None:  # `latest` may mean another checkpoint by now
        record.leg = earlier.leg
    record.started_at = earlier.started_at
    step = folder.checkpoint.progress.step if folder.checkpoint else 0
    record.resumed = [*earlier.resumed, Resumption(timestamp(), step, earlier.provenance())]


def remark_on_the_past(records: list[RunRecord], runs: int) -> str | None:
    """What to say, once for all of `runs`, where some go on whose first part other code computed, or another machine.

    `records` are of those that go on from a checkpoint of theirs.
    """
    changed = sum(record.resumed[-1].before != record.provenance() for record in records)
    if not changed:
        return None
    which = "this run" if runs == 1 else f"{changed} runs"
    return f"note: the first part of {which} was trained by other code or elsewhere; run.json says which (resumed)"
