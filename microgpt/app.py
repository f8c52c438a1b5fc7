"""The application: Hydra composes, `config.py` checks, a task runs; a user's mistake becomes one sentence and exit code 2.

Hydra is told to raise its errors instead of printing them, and to make no folders of its own: a run makes its folder once
nothing is wrong with what was asked for.
"""

import hashlib
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from microgpt.config import from_omegaconf, register_schema, unknown_key
from microgpt.errors import Interrupted, MicrogptError, UserError
from microgpt.record import Invocation
from microgpt.tasks import task_named


def config_directory() -> str:
    """The installed package carries conf/ inside itself; a checkout has it beside the package."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


class Outcome:
    """What the jobs of this process came to; Hydra's sweepers do not tell."""

    def __init__(self) -> None:
        self.errors: list[MicrogptError | Exception] = []
        self.sweep_dir: str | None = None
        self.outputs_dir = ""
        self.results_dir = ""


outcome = Outcome()


@hydra.main(version_base="1.3", config_path=config_directory(), config_name="config")
def application(composed: DictConfig) -> float | None:
    """One job. Returns what an optimizing sweeper minimises; NaN for a job that failed, so that the others go on."""
    hydra_config = HydraConfig.get()
    in_sweep = hydra_config.mode == RunMode.MULTIRUN
    job = (hydra_config.sweep.dir, hydra_config.job.num) if in_sweep else None
    invocation = Invocation(tuple(hydra_config.overrides.task), job)
    if in_sweep:
        outcome.sweep_dir = hydra_config.sweep.dir
        outcome.outputs_dir, outcome.results_dir = composed.outputs_dir, composed.results_dir
    try:
        config = from_omegaconf(composed)
        check_overrides(config.task.name, invocation)
        return task_named(config.task.name)(config, invocation)
    except Exception as error:
        if not in_sweep:
            raise
        outcome.errors.append(error)
        report(error, prefix=f"job {hydra_config.job.num}: ")
        record_failure(composed, invocation, error)
        return float("nan")


def check_overrides(task: str, invocation: Invocation) -> None:
    """A checkpoint decides its model: refuse what the user would expect to change it."""
    if task == "train":
        return
    for group in ("model", "data", "optim", "schedule", "train"):
        if invocation.touches(group):
            raise UserError(f"{group} cannot be changed with task={task}: checkpoint=<folder> brings its own model")


def record_failure(composed: DictConfig, invocation: Invocation, error: Exception) -> None:
    """A job that failed before it had a folder is recorded all the same: the sweep's records tell of all its jobs."""
    from microgpt.record import record_failed_job

    plain = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(plain, dict)
    record_failed_job(plain, invocation, error)


def main() -> int:
    """Run the program on sys.argv; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):  # a name may hold any character, whatever the locale is
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    register_schema()
    sweep = sweep_id(sys.argv[1:])
    OmegaConf.register_new_resolver("sweep_id", lambda: sweep, use_cache=True, replace=True)
    try:
        application()
        return finish_sweep()
    except KeyboardInterrupt as stop:
        finish_sweep()
        return stop.exit_code if isinstance(stop, Interrupted) else 130
    except Exception as error:
        return report(error)


def sweep_id(arguments: list[str]) -> str:
    """The name of a sweep's folder: the same command finds its own sweep again, in whatever order its overrides stand."""
    overrides = sorted(a for a in arguments if "=" in a and not a.startswith(("-", "train.resume=", "hydra.")))
    experiment = next((o.split("=", 1)[1] for o in overrides if o.lstrip("+").startswith("experiment=")), "sweep")
    name = experiment if re.fullmatch(r"[\w.-]+", experiment) else "sweep"
    return f"{name}_{hashlib.sha256(' '.join(overrides).encode()).hexdigest()[:8]}"


def finish_sweep() -> int:
    """Collect what a sweep left, also when a job failed; the exit code is that of the first failure."""
    if outcome.sweep_dir is None:
        return 0
    from microgpt.reports.collect import collect

    try:
        collect([Path(outcome.outputs_dir)], Path(outcome.results_dir))
    except OSError as error:
        outcome.errors.append(UserError(f"results_dir={outcome.results_dir} cannot be written: {error.strerror}"))
        report(outcome.errors[-1])
    if not outcome.errors:
        return 0
    first = outcome.errors[0]
    print(f"{len(outcome.errors)} job(s) of the sweep failed; their run.json says why", file=sys.stderr)
    return first.exit_code if isinstance(first, MicrogptError) else 1


def report(error: Exception, prefix: str = "") -> int:
    """Print an error on stderr: one sentence for what a sentence explains, the traceback for a bug. Returns the exit code."""
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
    if isinstance(error, (HydraException, OmegaConfBaseException)):
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
    cause = root_cause(error)
    key = getattr(cause, "full_key", None)
    if isinstance(cause, ConfigKeyError) or "is not in struct" in str(cause):
        return unknown_key(key or first_line(cause))
    reason = first_line(cause)
    found = re.search(r"Error merging override (\S+)|Could not override '([^']+)'", text)
    override = next(filter(None, found.groups()), key) if found else key
    if conversion := re.match(r"Value '(.*)' of type '.*' could not be converted to (\w+)", reason):
        value, wanted = conversion.groups()
        names = {"Integer": "an integer", "Float": "a number", "Boolean": "true or false"}
        return f"{key or override}={value} is not allowed: {key or override} is {names.get(wanted, wanted)}"
    return f"{override}: {reason}" if override else reason


def explain_missing_option(text: str) -> str:
    """Hydra lists the options a line each below "Could not find 'group/option'"."""
    found = re.search(r"Could not find '([^']+)'", text)
    if found is None or "/" not in found.group(1):
        return first_line(text)
    group, option = found.group(1).rsplit("/", 1)
    options = [line.strip() for line in text.splitlines() if line.startswith("\t")]
    return f"{group}={option} is not an option: {group} is one of {', '.join(sorted(options))}"


def root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
