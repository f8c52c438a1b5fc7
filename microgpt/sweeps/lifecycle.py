"""The sweep of one call of the program: its folder's name, its start, the errors of its jobs, and its tables."""

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from microgpt.config.hydra_compat import parse_arguments
from microgpt.config.hydra_settings import check_hydra, check_plugins
from microgpt.distributed import this_process
from microgpt.errors import MicrogptError, UserError
from microgpt.runs.record import timestamp


@dataclass
class Sweep:
    """The jobs of one call of the program: those of a sweep or, without a folder, a single run."""

    name: str = ""  # of the sweep's folder (the resolver sweep_id)
    errors: list[Exception] = field(default_factory=list)  # errors of the jobs that ran in this process
    folder: Path | None = None
    archived: Path | None = None  # the new path of an earlier sweep of the same command (sweep.fresh=true)
    has_trials: bool = False  # whether an optimizing sweeper proposes the jobs
    started: str = ""
    outputs_dir: Path = Path()
    results_dir: Path = Path()

    def start(self, config: DictConfig) -> None:
        """Start the sweep.

        Raises UserError under torchrun, if the tables cannot be written, or if an earlier sweep cannot be archived.
        """
        size = this_process().world_size
        if size > 1:
            why = "they train a single model; for parallel jobs, use workers (hydra/launcher) instead of torchrun"
            raise UserError(f"a sweep is not allowed with {size} processes of torchrun: {why}")
        check_hydra(config.hydra)
        check_plugins(config.hydra)
        self.outputs_dir, self.results_dir = Path(config.outputs_dir), Path(config.results_dir)
        earlier = (name for name in sweep_names(sys.argv[1:])[1:] if (self.outputs_dir / "sweeps" / name).is_dir())
        self.name = next(earlier, self.name)
        self.folder, self.started = Path(config.hydra.sweep.dir), timestamp()  # reads the name
        self.has_trials = proposes_jobs(config.hydra.sweeper._target_)
        if config.task.name == "train":  # the other tasks make no runs, and so no tables
            check_results_dir(self.results_dir)
        elif contains_runs(self.folder):
            key = f"hydra.sweep.dir={self.folder}"
            raise UserError(f"{key} is not allowed with task={config.task.name}: it contains the runs of a sweep")
        if config.sweep.fresh:
            self.archived = archive(self.folder)

    @property
    def how_to_continue(self) -> str:
        """The clause of a message about the command that continues the sweep after an interruption.

        It includes the folder if the user set it: with ${now:...}, the next command would use another folder.
        """
        is_own = self.folder is None or self.folder.name in sweep_names(sys.argv[1:])
        return f"the same command{'' if is_own else f' with hydra.sweep.dir={self.folder}'} continues from there"

    def named(self, error: Exception) -> Exception:
        """Return the error; if the sweep's folder cannot be written, return a UserError with the key that sets it."""
        if not isinstance(error, OSError) or self.folder is None:
            return error
        from microgpt.runs.folders import key_of_sweep  # imports numpy, which --help does not need

        folder = self.folder.absolute()
        place = Path(os.fsdecode(error.filename or folder)).absolute()
        if place not in (folder, *folder.parents) and folder not in place.parents:
            return error
        inside = f"{place.relative_to(folder)}: " if folder in place.parents else ""
        return UserError(f"{key_of_sweep(self.folder)} cannot be written: {inside}{error.strerror}")

    def finish(self, print_tables: bool = True) -> None:
        """Report the number of failed jobs, and collect all outputs into the tables.

        Raises UserError if the sweep has no jobs or the tables cannot be written.
        """
        if self.folder is None:
            return
        from microgpt.runs.folders import run_folders  # imports numpy, which --help does not need
        from microgpt.sweeps.folder import failed_since

        failed = failed_since(self.folder, self.started)
        if failed and not self.errors:  # the jobs failed in processes of another Hydra launcher
            self.errors.append(MicrogptError("a job failed"))
        if self.errors:
            number = max(len(self.errors), len(failed))
            where = f"; see run.json in their folders in {self.folder}" if failed else ""
            print(f"{number} job(s) of the sweep failed{where}", file=sys.stderr)
        elif is_without_jobs(self.folder):
            self.remove_if_empty()
            raise UserError("the sweep has no jobs: a swept key has no values")
        if any(run_folders(self.folder)):  # false if no job trains
            folders = [path for path in (self.outputs_dir, self.folder) if path.is_dir()]
            from microgpt.reports.collect import collect, collect_and_print

            if print_tables:
                collect_and_print(folders, self.results_dir, self.folder)
            else:
                collect(folders, self.results_dir)

    def remove_if_empty(self) -> None:
        """Remove the sweep's folder if none of its jobs could be composed, and restore the archived sweep."""
        if self.folder is None or (self.folder.exists() and not is_without_jobs(self.folder)):
            return
        with contextlib.suppress(OSError):  # not there, or not empty
            if self.folder.exists():
                (self.folder / "multirun.yaml").unlink(missing_ok=True)
                self.folder.rmdir()
            if self.archived is not None:
                self.archived.rename(self.folder)
                print(f"the earlier sweep is back in {self.folder}", flush=True)
            if self.folder.parent.name == "sweeps":  # not if hydra.sweep.dir sets the folder
                for empty in (self.folder.parent, self.outputs_dir):
                    empty.rmdir()


# Keys of hydra.sweeper that extend a sweep instead of starting another one
EXTENDING = ("n_trials", "n_jobs", "half_width", "max_seeds")
CURRENT: ContextVar[Sweep] = ContextVar("sweep")  # Hydra constructs the launcher, which needs it


@contextlib.contextmanager
def new_sweep(sweep: Sweep | None = None) -> Iterator[Sweep]:
    """Make a sweep, by default a new one, the current sweep of a call of the program in the block."""
    token = CURRENT.set(Sweep() if sweep is None else sweep)
    try:
        yield CURRENT.get()
    finally:
        CURRENT.reset(token)


def current_sweep() -> Sweep:
    """Return the sweep of this call of the program, or a new sweep in a process of another Hydra launcher."""
    if CURRENT.get(None) is None:
        CURRENT.set(Sweep())
    return CURRENT.get()


def start_sweep(config: DictConfig) -> None:
    """Start the sweep of this call of the program. Called when a sweep begins, before its jobs are composed."""
    HydraConfig.instance().set_config(config)  # for hydra.sweep.dir with ${hydra:...} in outputs_dir
    OmegaConf.set_readonly(config.hydra, False)
    current_sweep().start(config)


def proposes_jobs(target: str) -> bool:
    """Return whether the jobs of a sweeper, given by its class name, are trials of an optimization."""
    from microgpt.sweeps.plugins import PLUGINS
    from microgpt.sweeps.sweepers import PlannedSweeper

    planned = (plugin.__name__ for plugin in PLUGINS if issubclass(plugin, PlannedSweeper))
    return target.rpartition(".")[2] not in ("BasicSweeper", *planned)


def check_results_dir(path: Path) -> None:
    """Raise UserError if the folder of the tables cannot be created or written in. Writes nothing."""
    found = next(one for one in (path.absolute(), *path.absolute().parents) if os.path.lexists(one))
    if not found.is_dir():
        raise UserError(f"results_dir={path} cannot be written: {found} is not a folder")
    if not os.access(found, os.W_OK | os.X_OK):
        raise UserError(f"results_dir={path} cannot be written: {found} is not writable")


def sweep_names(arguments: Sequence[str]) -> list[str]:
    """Return the name of the folder of a command's sweep, and the name in earlier versions if results_dir is set.

    The name does not depend on the order of the overrides. Overrides for resuming, for the launcher and for the place
    of the tables do not change it; flags that choose configuration files do.
    """
    how = ("train.resume=auto", "train.resume=never", "sweep.fresh", "hydra/launcher", "hydra.launcher")
    ignored = ("-", *how, *(f"hydra.sweeper.{key}" for key in EXTENDING))
    flags, _ = parse_arguments(arguments)
    overrides = sorted(a for a in flags.overrides if "=" in a and not a.startswith(ignored))
    experiment = next((o.split("=", 1)[1] for o in overrides if o.lstrip("+").startswith("experiment=")), "sweep")
    name = experiment if re.fullmatch(r"[\w.-]+", experiment) else "sweep"
    folders = {"--config-dir": flags.config_dir, "--config-path": flags.config_path}
    files = [f"{flag}={os.path.relpath(folder)}" for flag, folder in folders.items() if folder is not None]
    files += [f"--config-name={flags.config_name}"] if flags.config_name is not None else []
    own = [one for one in overrides if not one.lstrip("+").startswith("results_dir=")]
    hashes = (hashlib.sha256(os.fsencode(" ".join([*some, *files]))).hexdigest()[:8] for some in (own, overrides))
    return list(dict.fromkeys(f"{name}_{digest}" for digest in hashes))


def archive(folder: Path) -> Path | None:
    """Rename a sweep's folder to <name>.1, <name>.2, ... Returns the new path, or None if there is no folder.

    Raises UserError if a process is running the sweep or the folder cannot be renamed.
    """
    from microgpt.sweeps.folder import SweepFolder

    if not folder.is_dir():
        return None
    if SweepFolder(folder).is_held():
        raise UserError(f"sweep.fresh=true is not allowed now: another process is using {folder}")
    archived = next(path for n in count(1) if not (path := folder.with_name(f"{folder.name}.{n}")).exists())
    try:
        folder.rename(archived)
    except OSError as error:
        raise UserError(f"sweep.fresh=true: {folder} cannot be renamed: {error.strerror}") from error
    print(f"sweep.fresh=true: the earlier sweep is now in {archived}", flush=True)
    return archived


def contains_runs(folder: Path) -> bool:
    """Return whether a folder is that of a sweep with runs, not one with folders of sweeps."""
    from microgpt.runs.folders import has_failed_before_start, run_folders  # imports numpy, which --help does not need

    is_of_sweep = (folder / ".locks").is_dir()
    return is_of_sweep and any(not has_failed_before_start(path) for path in run_folders(folder))


def is_without_jobs(folder: Path) -> bool:
    """Return whether a sweep's folder is empty except for multirun.yaml, which Hydra writes before composing jobs."""
    return folder.is_dir() and all(path.name == "multirun.yaml" for path in folder.glob("*"))
