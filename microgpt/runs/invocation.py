"""How a task was called: its overrides, its job in a sweep, and the folders chosen by the caller."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SweepJob:
    """A job's number, name and folder in its sweep."""

    sweep: Path  # the sweep's folder
    number: int
    name: str  # path of the job's folder in the sweep's folder
    trial: int | None = None  # number of the trial in an optimizing sweeper's study

    @property
    def folder(self) -> Path:
        return self.sweep / self.name


@dataclass(frozen=True)
class Invocation:
    """How a task was called: the command-line overrides, the job of a sweep, and the folders chosen by the caller."""

    overrides: tuple[str, ...] = ()
    job: SweepJob | None = None  # None: not a job of a sweep
    folder: Path | None = None  # folder of a single run; None: runs/folders.py chooses it
    directory: Path = Path()  # base of relative paths

    def keys(self) -> list[str]:
        """Return the overridden keys: `style` for style=classic, `style.bias` for style.bias=2."""
        return [override.lstrip("+~").split("=")[0].split("@")[0] for override in self.overrides]

    def touches(self, name: str) -> bool:
        """Return whether an override sets the key or group `name`, or a key in it."""
        return any(key == name or key.startswith(f"{name}.") for key in self.keys())
