"""Provides the files, environment variables and callback calls that Hydra gives a job besides its configuration.

Hydra's function run_job does this for a job that runs alone (checked_job.py); this module does it for jobs that are
trained together.
"""

import contextlib
import copy
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, env_override, setup_globals
from hydra.experimental.callback import Callback
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from microgpt.atomic import write_file
from microgpt.config.hydra_compat import apply_overrides, replaced
from microgpt.errors import UserError

CACHED_TEXTS = 10_000
# Strings that YAML writes without quotes: an override with a simple value, or a path. OmegaConf is slow.
PLAIN = re.compile(r"[A-Za-z/][\w./=,-]*[/=][\w./=,-]*", re.ASCII)
# Values in hydra.yaml that differ between jobs: (node, key, a placeholder for the job's value).
MARKED: tuple[tuple[str, str, Any], ...] = (
    ("overrides", "task", ["@task@"]),
    ("job", "override_dirname", "@override_dirname@"),
    ("job", "id", "@id@"),
    ("job", "num", 987654321),
    ("runtime", "output_dir", "@output_dir@"),
)


@dataclass(frozen=True)
class HydraFiles:
    """The files that Hydra writes to a job's folder. Most of their content is the same for all jobs."""

    folder: str  # hydra.output_subdir
    config: tuple[str, ...]
    template: tuple[str, ...]  # hydra.yaml before, between and after the values of MARKED
    values: tuple[Any, ...]  # for MARKED; the last value is missing until the job has its folder

    def write(self, job_folder: Path) -> None:
        values = (*self.values, str(job_folder.absolute()))
        parts = [as_yaml(key, value) for (_, key, _), value in zip(MARKED, values, strict=True)]
        between = [text for pair in zip(self.template, parts, strict=False) for text in pair]
        texts = {
            "config.yaml": "".join(self.config),
            "overrides.yaml": list_as_yaml(self.values[0]),
            "hydra.yaml": "".join([*between, self.template[-1]]),
        }
        for name, text in texts.items():
            write_file(job_folder / self.folder / name, text.encode())


@dataclass(frozen=True)
class JobSettings:
    """The values that distinguish a job from others with the same `Base`, including values set by Hydra's launchers."""

    number: int
    overrides: tuple[str, ...]
    dirname: str  # hydra.job.override_dirname
    sweep_dir: str | None  # None: read hydra.sweep.dir of the job
    values: tuple[Override, ...]

    def apply(self, full: DictConfig) -> None:
        """Set this job's values in a configuration with the `hydra` node, and store it in HydraConfig."""
        apply_overrides(self.values, full)
        hydra = full.hydra
        HydraConfig.instance().cfg = full  # pyright: ignore[reportAttributeAccessIssue] (set_config would copy it)
        hydra.job.num, hydra.job.id, hydra.job.override_dirname = self.number, str(self.number), self.dirname
        hydra.overrides.task = list(self.overrides)
        folder = os.path.join(self.sweep_dir or hydra.sweep.dir, hydra.sweep.subdir)  # noqa: PTH118
        hydra.runtime.output_dir = os.path.abspath(folder)  # noqa: PTH100 (as Hydra does)


@dataclass(eq=False)
class JobCallbacks:
    """Calls Hydra's callbacks for a job. The job's configuration is built only at its start: sweeps have many jobs."""

    callbacks: Any
    task_function: TaskFunction
    full: DictConfig  # shared by all jobs with the same `Base`
    settings: JobSettings
    config: DictConfig | None = None
    noted: list[dict[str, Any]] = field(default_factory=list)  # attributes that each callback has set in on_job_start

    def start(self, folder: Path) -> None:
        setup_globals()  # needed if this is a worker process
        config = self.config = copy.deepcopy(self.full)
        with self.restored():
            self.settings.apply(config)
            config.hydra.runtime.output_dir = str(folder.absolute())
            HydraConfig.instance().set_config(config)
            before = [dict(vars(callback)) for callback in self.callbacks.callbacks]
            self.callbacks.on_job_start(config=config, task_function=self.task_function)
            self.noted = [
                {name: value for name, value in vars(callback).items() if name not in old or old[name] is not value}
                for callback, old in zip(self.callbacks.callbacks, before, strict=True)
            ]

    def end(self, result: Any) -> None:
        """Call the callbacks with `result`, the job's return value or its error."""
        config, self.config = self.config, None
        if config is None:
            return
        own = without_hydra(config)
        with self.restored():
            HydraConfig.instance().set_config(config)
            job_return = JobReturn(
                overrides=list(self.settings.overrides),
                cfg=own,
                hydra_cfg=copy.deepcopy(HydraConfig.instance().cfg),  # pyright: ignore[reportArgumentType]
                working_dir=str(Path.cwd()),
                task_name=JobRuntime.instance().get("name"),
                status=JobStatus.FAILED if isinstance(result, Exception) else JobStatus.COMPLETED,
            )
            job_return.return_value = result
            with self.as_started():
                self.callbacks.on_job_end(config=config, job_return=job_return)

    @contextlib.contextmanager
    def as_started(self) -> Iterator[None]:
        """Restore, in the block, the attributes that callbacks set in on_job_start of this job.

        Jobs that train together all start before the first of them ends, but a callback may store only one job.
        """
        pairs = list(zip(self.callbacks.callbacks, self.noted, strict=True))
        now = [{name: vars(callback)[name] for name in noted} for callback, noted in pairs]
        for callback, noted in pairs:
            vars(callback).update(noted)
        try:
            yield
        finally:
            for (callback, noted), values in zip(pairs, now, strict=True):
                for name, value in values.items():
                    if vars(callback)[name] is noted[name]:
                        vars(callback)[name] = value

    def restored(self) -> contextlib.AbstractContextManager[None]:
        """Restore the configuration of HydraConfig at the end of the block."""
        return replaced(HydraConfig.instance(), "cfg", HydraConfig.instance().cfg)


@dataclass(frozen=True)
class HydraJob:
    """The files, callbacks and environment variables that Hydra gives a job."""

    files: HydraFiles | None = None
    callbacks: JobCallbacks | None = None
    environment: tuple[tuple[str, str], ...] = ()  # hydra.job.env_set

    def start(self, folder: Path) -> None:
        """Write Hydra's files to the job's new folder, and call the callbacks."""
        if self.files is not None:
            self.files.write(folder)
        if self.callbacks is not None:
            self.callbacks.start(folder)

    def end(self, result: Any) -> None:
        """Call the callbacks with the job's return value or its error."""
        if self.callbacks is not None:
            self.callbacks.end(result)

    def repeat(self, folder: Path, result: Any) -> None:
        """Call the callbacks for a job that was completed earlier."""
        if self.callbacks is not None:
            self.callbacks.start(folder)
            self.callbacks.end(result)

    def in_environment(self) -> contextlib.AbstractContextManager[None]:
        """Set the job's environment variables in the block."""
        return env_override(dict(self.environment))


def without_hydra(config: DictConfig) -> DictConfig:
    """Return a copy of a composed configuration without the `hydra` node. Unlike a masked copy, its keys have types."""
    own = copy.deepcopy(config)
    with read_write(own), open_dict(own):
        own.pop("hydra", None)  # a launcher of another package has removed it
    return own


def job_name(subdir: str) -> str:
    """Return the path of a job's folder relative to the sweep's. Raises UserError for a path that is not inside it."""
    path = PurePosixPath(subdir)
    if path.is_absolute() or not path.parts or any(part.startswith(".") for part in path.parts):
        raise UserError(f"hydra.sweep.subdir={subdir} is not allowed: it must be a folder inside hydra.sweep.dir")
    return path.as_posix()


def template_of(hydra_config: DictConfig) -> tuple[str, ...]:
    """Return the parts of hydra.yaml before, between and after the values that differ between jobs."""
    marked = OmegaConf.masked_copy(hydra_config, "hydra")
    with read_write(marked), open_dict(marked):
        OmegaConf.set_readonly(marked.hydra, False)
        for node, key, value in MARKED:
            marked.hydra[node][key] = value
    rest, parts = OmegaConf.to_yaml(marked), []
    for _, key, value in MARKED:
        before, found, rest = rest.partition(as_yaml(key, value))
        assert found, f"{key} is missing or at an unexpected position in hydra.yaml"
        parts.append(before)
    return (*parts, rest)


def calls_jobs(callbacks: Any) -> bool:
    """Return whether any callback has a hook for single jobs."""
    hooks = ("on_job_start", "on_job_end")
    return any(
        getattr(type(one), hook, None) not in (None, getattr(Callback, hook))
        for one in callbacks.callbacks
        for hook in hooks
    )


@lru_cache(CACHED_TEXTS)
def line_as_yaml(text: str) -> str:
    if PLAIN.fullmatch(text):
        return f"- {text}\n"
    return OmegaConf.to_yaml(OmegaConf.create([text]))


def list_as_yaml(texts: list[str] | tuple[str, ...]) -> str:
    return "".join(map(line_as_yaml, texts)) or "[]\n"


def as_yaml(key: str, value: Any) -> str:
    """Return a key in a child of the `hydra` node as one or more lines of YAML."""
    if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()):  # common, and OmegaConf is slow
        lines = f"{key}: {value!r}"
    elif isinstance(value, str) and PLAIN.fullmatch(value):
        lines = f"{key}: {value}"
    elif isinstance(value, list | tuple) and value:
        lines = f"{key}:\n{list_as_yaml(value)}"
    else:
        lines = OmegaConf.to_yaml(OmegaConf.create({key: value}))
    return "".join(f"    {line}\n" for line in lines.splitlines())
