"""How a task was called: overrides, the place of a job in its sweep, and the folders that the caller chose."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SweepJob:
    """The place of a job in its sweep."""

    sweep: Path  # the sweep's folder
    number: int
    name: str  # of the job's folder, below the sweep's
    trial: int | None = None  # of an optimizing sweeper's study

    @property
    def folder(self) -> Path:
        return self.sweep / self.name


@dataclass(frozen=True)
class Invocation:
    """How a task was called: the overrides of the command line, and the folders that the caller chose."""

    overrides: tuple[str, ...] = ()
    job: SweepJob | None = None  # None: not a job of a sweep
    folder: Path | None = None  # of a single run; None: as runs/folders.py chooses
    directory: Path = Path()  # that relative paths start from

    def keys(self) -> list[str]:
        """Return the overridden keys: `style` for style=classic, `style.bias` for style.bias=2."""
        return [override.lstrip("+~").split("=")[0].split("@")[0] for override in self.overrides]

    def touches(self, name: str) -> bool:
        """Return whether an override changes a key, or selects or changes something in a configuration group."""
        return any(key == name or key.startswith(f"{name}.") for key in self.keys())
