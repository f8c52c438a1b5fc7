"""The application: Hydra composes, `rules.py` checks, a task runs; a user's mistake is one sentence and exit code 2.

Hydra is told to raise its errors instead of printing them, and to make no folders of its own: a run makes its folder
once nothing is wrong with what was asked for.
"""

import contextlib
import hashlib
import io
import os
import re
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from microgpt.config import from_omegaconf, register_schema, unknown_key
from microgpt.errors import RECORDED_IN, Interrupted, MicrogptError, UserError
from microgpt.record import Invocation, record_failed_job, timestamp
from microgpt.rules import check
from microgpt.runs import read_record
from microgpt.tasks import task_named


def config_directory() -> str:
    """The installed package carries conf/ inside itself; a checkout has it beside the package."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


class Outcome:
    """What the jobs of this process came to; Hydra's sweepers do not tell."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.sweep_dir: Path | None = None
        self.sweep_started = ""
        self.outputs_dir = Path()
        self.results_dir = Path()


outcome = Outcome()


class SweepStart(Callback):
    """Hydra calls it when a sweep begins, before any of its jobs is composed (conf/config.yaml)."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        outcome.sweep_dir, outcome.sweep_started = Path(config.hydra.sweep.dir), timestamp()
        outcome.outputs_dir, outcome.results_dir = Path(config.outputs_dir), Path(config.results_dir)


@hydra.main(version_base="1.3", config_path=config_directory(), config_name="config")
def application(composed: DictConfig) -> float | None:
    """One job. Returns what an optimizing sweeper minimises; NaN for a job that failed, so that the others go on.

    Errors are kept, not raised: Hydra would add lines of its own to the sentence.
    """
    hydra_config = HydraConfig.get()
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    job = (hydra_config.sweep.dir, hydra_config.job.num) if in_sweep else None
    invocation = Invocation(tuple(hydra_config.overrides.task), job)
    try:
        config = from_omegaconf(composed)
        check(config)
        check_overrides(config.task.name, invocation)
        return task_named(config.task.name)(config, invocation)
    except BrokenPipeError:
        raise
    except Exception as error:
        outcome.errors.append(error)
        report(error, prefix=f"job {hydra_config.job.num}: " if in_sweep else "")
        recorded = any(note.startswith(RECORDED_IN) for note in getattr(error, "__notes__", []))
        if in_sweep and composed.task.name == "train" and not recorded:  # the records of a sweep tell of all its jobs
            record_failed_job(OmegaConf.to_container(composed, resolve=True), invocation, error)
        return float("nan")


def check_overrides(task: str, invocation: Invocation) -> None:
    """A checkpoint decides its model: refuse what the user would expect to change it."""
    if task == "train":
        return
    for group in ("model", "data", "optim", "schedule", "train"):
        if invocation.touches(group):
            raise UserError(f"{group} cannot be changed with task={task}: checkpoint=<folder> brings its own model")


def main() -> int:
    """Run the program on sys.argv; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):  # a name may hold any character, whatever the locale is
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    register_schema()
    # Hydra copies this singleton, with every schema in it, for each option that --help lists: half of its time.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # pyright: ignore[reportAttributeAccessIssue]
    sweep = sweep_id(sys.argv[1:])
    OmegaConf.register_new_resolver("sweep_id", lambda: sweep, use_cache=True, replace=True)
    try:
        application()
        return finish()
    except KeyboardInterrupt as stop:
        finish()
        return stop.exit_code if isinstance(stop, Interrupted) else 130
    except BrokenPipeError:  # whoever read our output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:  # in composition: no job ran
        leave_no_empty_sweep()
        if isinstance(error, OSError) and outcome.sweep_dir is not None:
            error = UserError(f"outputs_dir={outcome.outputs_dir} cannot be written: {error.strerror}")
        return report(error)


def leave_no_empty_sweep() -> None:
    """Hydra writes multirun.yaml before it composes the jobs: remove it where none of them could be composed."""
    folder = outcome.sweep_dir
    if folder is None or any(path.name != "multirun.yaml" for path in folder.glob("*")):
        return
    with contextlib.suppress(OSError):  # not there, or not empty
        (folder / "multirun.yaml").unlink(missing_ok=True)
        for empty in (folder, folder.parent, outcome.outputs_dir):
            empty.rmdir()


def sweep_id(arguments: list[str]) -> str:
    """The name of a sweep's folder: the same command, its overrides in any order, finds its own sweep again.

    Whether to resume, and which launcher runs the jobs, does not make it another sweep.
    """
    aside = ("-", "train.resume=auto", "train.resume=never", "hydra/launcher", "hydra.launcher")
    overrides = sorted(a for a in arguments if "=" in a and not a.startswith(aside))
    experiment = next((o.split("=", 1)[1] for o in overrides if o.lstrip("+").startswith("experiment=")), "sweep")
    name = experiment if re.fullmatch(r"[\w.-]+", experiment) else "sweep"
    return f"{name}_{hashlib.sha256(os.fsencode(' '.join(overrides))).hexdigest()[:8]}"


def finish() -> int:
    """After all jobs: collect what a sweep left, also when a job failed. The exit code is that of the first failure."""
    if outcome.sweep_dir is not None:
        failed = failed_jobs(outcome.sweep_dir)
        if failed and not outcome.errors:  # in other processes, which a launcher may have started
            outcome.errors.append(MicrogptError("a job failed"))
        if outcome.errors:
            count = max(len(outcome.errors), len(failed))
            print(f"{count} job(s) of the sweep failed; run.json in their folders below "
                  f"{outcome.sweep_dir} says why", file=sys.stderr)  # fmt: skip
        collect_sweep()
    return explain(outcome.errors[0])[1] if outcome.errors else 0


def failed_jobs(sweep_dir: Path) -> list[Path]:
    """Folders of the jobs that have failed since this sweep began, in whatever process they ran."""
    found = []
    for path in sweep_dir.glob("*"):
        record = read_record(path) or {}
        if record.get("status") == "failed" and str(record.get("finished_at")) >= outcome.sweep_started:
            found.append(path)
    return found


def collect_sweep() -> None:
    from microgpt.reports.collect import collect_and_print

    try:
        collect_and_print([outcome.outputs_dir], outcome.results_dir)
    except UserError as error:
        outcome.errors.append(error)
        report(error)


def report(error: Exception, prefix: str = "") -> int:
    """Print an error on stderr, a sentence where one explains it, the traceback of a bug. Returns the exit code."""
    sentence, code = explain(error)
    if sentence is None:
        print(prefix + "".join(traceback.format_exception(error)), file=sys.stderr, end="")
    else:
        print(f"{prefix}error: {sentence}", file=sys.stderr)
    return code


def explain(error: Exception) -> tuple[str | None, int]:
    """The sentence for an error, or None where there is none, and the exit code."""
    if isinstance(error, MicrogptError):
        return str(error), error.exit_code
    if isinstance(error, (HydraException, OmegaConfBaseException)) or "Config group override" in str(error):
        return explain_composition(error), 2
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", 1
    return None, 1


def explain_composition(error: Exception) -> str:
    """Hydra's and OmegaConf's many-line messages, each in a sentence."""
    text = str(error)
    if isinstance(error, MissingConfigException):
        return explain_missing_option(text)
    if isinstance(error, OverrideParseException):
        return f"{error.override} is not an override: write key=value, or group=option"
    if "Config group override must be a string" in text:
        return "a config group cannot be null: choose one of its options, or leave it out"
    if found := re.match(r"Ambiguous value for argument '(.*)'", text):
        return f"{found.group(1)} has several values: add -m to run them all, or quote them as one"
    cause = root_cause(error)
    key = getattr(cause, "full_key", None)
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and key:
        return unknown_key(key)
    found = re.search(r"Error merging override ([^\s=]+)=?(\S*)", text)
    key, value = (found.group(1), found.group(2)) if found else (key, getattr(cause, "value", ""))
    reason = first_line(cause)
    if not key:
        return reason
    for pattern, allowed in CONVERSIONS.items():
        if re.search(pattern, reason):
            return f"{key}={value} is not allowed: {key} is {allowed}"
    return f"{key}={value} is not allowed: {reason}"


CONVERSIONS = {
    "could not be converted to Integer": "an integer",
    "could not be converted to Float": "a number",
    "is not a valid bool": "true or false",
    "is not Optional": "never null",
}


def explain_missing_option(text: str) -> str:
    """Hydra lists the options a line each between "Available options in 'group':" and the search path."""
    found = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    listed = re.search(r"Available options in [^\n]*\n((?:\t[^\n]*\n)*)", text)
    if found is None or listed is None:
        return first_line(text)
    options = ", ".join(sorted(listed.group(1).split()))
    return f"{found.group(1)}={found.group(2)} is not an option: {found.group(1)} is one of {options}"


def root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
