"""What a run's record says of what came before this process. Knows nothing of how a run goes on."""

from typing import Any

from microgpt.runs.folders import RunFolder
from microgpt.runs.record import timestamp
from microgpt.training.assembly import Inputs


def add_past(record: dict[str, Any], inputs: Inputs, folder: RunFolder) -> None:
    """What came before this process: the run that this leg trains on from, and the stops of this run itself."""
    record["run_id"] = folder.run_id
    if inputs.leg_from is not None:
        before = inputs.leg_from.train
        record["leg"] = {
            "from": str(inputs.leg_from.path),
            "first_step": before.first_step + before.step,
            "optimizer_state": bool(inputs.leg_from.state.m),
        }
    if folder.earlier is None:
        return
    if "earlier_failures" in folder.earlier:
        record["earlier_failures"] = folder.earlier["earlier_failures"]
    if folder.earlier.get("status") == "failed":  # begun anew in its folder
        failure = {"at": folder.earlier.get("finished_at"), "error": folder.earlier.get("error")}
        record["earlier_failures"] = [*record.get("earlier_failures", []), failure]
        return
    if folder.checkpoint is not None and "leg" in folder.earlier:  # `latest` may mean another checkpoint by now
        record["leg"] = folder.earlier["leg"]
    record["started_at"] = folder.earlier.get("started_at")
    resumed = {"at": timestamp(), "step": folder.checkpoint.train.step if folder.checkpoint else 0}
    earlier = {key: folder.earlier.get(key) for key in ("git", "environment", "processes")}
    record["resumed"] = [*folder.earlier.get("resumed", []), {**resumed, "before": earlier}]


def remark_on_the_past(records: list[dict[str, Any]], runs: int) -> str | None:
    """What to say, once for all of `runs`, where some go on whose first part other code computed, or another machine.

    `records` are of those that go on from a checkpoint of theirs.
    """
    before = [record["resumed"][-1]["before"] for record in records]
    changed = sum(any(then[key] != now[key] for key in then) for then, now in zip(before, records, strict=True))
    if not changed:
        return None
    which = "this run" if runs == 1 else f"{changed} runs"
    return f"note: the first part of {which} was trained by other code or elsewhere; run.json says which (resumed)"
