"""What surrounds the jobs of a sweep: the name of its folder, what became of its jobs, and the tables at its end."""

import contextlib
import hashlib
import os
import re
import sys
from itertools import count
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from microgpt.config.hydra_errors import report
from microgpt.distributed import processes
from microgpt.errors import MicrogptError, UserError
from microgpt.runs.record import RunRecord, timestamp


class Sweep:
    """The sweep of this process, if it runs one, and the errors of the jobs that ran in this process."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.folder: Path | None = None
        self.put_aside: Path | None = None  # where sweep.fresh=true has put an earlier sweep of the same command
        self.started = ""
        self.outputs_dir = Path()
        self.results_dir = Path()


sweep = Sweep()


class SweepStart(Callback):
    """Hydra calls it when a sweep begins, before any of its jobs is composed (conf/config.yaml)."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        count = processes().count
        if count > 1:  # Hydra only warns of an Exception in a callback
            why = "they train one model; a sweep without torchrun may have workers (hydra/launcher)"
            raise SystemExit(report(UserError(f"a sweep is not allowed with {count} processes of torchrun: {why}")))
        sweep.folder, sweep.started = Path(config.hydra.sweep.dir), timestamp()
        sweep.outputs_dir, sweep.results_dir = Path(config.outputs_dir), Path(config.results_dir)
        if config.sweep.fresh:
            try:
                sweep.put_aside = put_aside(sweep.folder)
            except UserError as error:  # Hydra only warns of an Exception in a callback
                raise SystemExit(report(error)) from error


def put_aside(folder: Path) -> Path | None:
    """Rename the folder of an earlier sweep of the same command; returns its new name, None where there is none.

    Raises UserError while a process works on it, and where it cannot be renamed.
    """
    from microgpt.sweeps.folder import SweepFolder

    if not folder.is_dir():
        return None
    if SweepFolder(folder).is_held():
        raise UserError(f"sweep.fresh=true is not allowed now: another process works on {folder}")
    old = next(path for number in count(1) if not (path := folder.with_name(f"{folder.name}.{number}")).exists())
    try:
        folder.rename(old)
    except OSError as error:
        raise UserError(f"sweep.fresh=true: {folder} cannot be renamed: {error.strerror}") from error
    print(f"sweep.fresh=true: the earlier sweep is now in {old}", flush=True)
    return old


def sweep_id(arguments: list[str]) -> str:
    """The name of a sweep's folder: the same command, its overrides in any order, finds its own sweep again.

    Whether to resume, and which launcher runs the jobs, does not make it another sweep.
    """
    aside = ("-", "train.resume=auto", "train.resume=never", "sweep.fresh", "hydra/launcher", "hydra.launcher")
    overrides = sorted(a for a in arguments if "=" in a and not a.startswith(aside))
    experiment = next((o.split("=", 1)[1] for o in overrides if o.lstrip("+").startswith("experiment=")), "sweep")
    name = experiment if re.fullmatch(r"[\w.-]+", experiment) else "sweep"
    return f"{name}_{hashlib.sha256(os.fsencode(' '.join(overrides))).hexdigest()[:8]}"


def finish_sweep() -> None:
    """Say how many jobs failed, and collect what the sweep left, also when some did.

    Raises UserError for a sweep without jobs, and when the tables cannot be written.
    """
    if sweep.folder is None:
        return
    failed = failed_jobs(sweep.folder)
    if failed and not sweep.errors:  # in other processes, which a launcher may have started
        sweep.errors.append(MicrogptError("a job failed"))
    if sweep.errors:
        count = max(len(sweep.errors), len(failed))
        print(f"{count} job(s) of the sweep failed; run.json in their folders below {sweep.folder} says why",
              file=sys.stderr)  # fmt: skip
    elif is_without_jobs(sweep.folder):
        leave_no_empty_sweep()
        raise UserError("the sweep has no jobs: what it ranges over has no values")
    collect_sweep(sweep.folder)


def failed_jobs(folder: Path) -> list[Path]:
    """Folders of the jobs that have failed since this sweep began, in whatever process they ran."""
    found = []
    for path in folder.glob("*"):
        record = RunRecord.read(path)
        if record is not None and record.status == "failed" and str(record.finished_at) >= sweep.started:
            found.append(path)
    return found


def collect_sweep(folder: Path) -> None:
    """Collect all outputs, among which this sweep's folder is unless it was put elsewhere."""
    from microgpt.reports.collect import collect_and_print

    folders = [path for path in (sweep.outputs_dir, folder) if path.is_dir()]
    if folders:
        collect_and_print(folders, sweep.results_dir)


def is_without_jobs(folder: Path) -> bool:
    """Whether Hydra's own file is all that there is: it writes multirun.yaml before it composes the jobs."""
    return folder.is_dir() and all(path.name == "multirun.yaml" for path in folder.glob("*"))


def leave_no_empty_sweep() -> None:
    """Remove the folder of a sweep none of whose jobs could be composed; what was put aside for it comes back."""
    folder = sweep.folder
    if folder is None or (folder.exists() and not is_without_jobs(folder)):
        return
    with contextlib.suppress(OSError):  # not there, or not empty
        if folder.exists():
            (folder / "multirun.yaml").unlink(missing_ok=True)
            folder.rmdir()
        if sweep.put_aside is not None:
            sweep.put_aside.rename(folder)
            print(f"the earlier sweep is in {folder} again", flush=True)
        for empty in (folder.parent, sweep.outputs_dir):
            empty.rmdir()
