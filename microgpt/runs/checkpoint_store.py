"""Manages the checkpoints of a run: which to keep, which are `latest` and `best`, and which to write from memory."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from microgpt.atomic import naming
from microgpt.engines.base import EngineState
from microgpt.errors import UserError
from microgpt.runs.checkpoint import (
    Checkpoint,
    Snapshot,
    checkpoint_files,
    load_checkpoint,
    remove_optimizer_state,
    write_directories,
)
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.runs.checkpoint_paths import BEST, LATEST, is_checkpoint, linked, step_name


@dataclass(eq=False)
class CheckpointStore:
    """The checkpoints of one run: holds the newest and the best in memory, writes and links them, removes old ones."""

    directory: Path
    keep: int  # number of the newest checkpoints that are kept besides the best
    keep_at_end: int | None = None  # the same after the last step; None: `keep`
    keep_optimizer_state: bool = True  # whether the checkpoints that are left after the last step have moments
    held: Snapshot | None = None  # the newest checkpoint until it is written
    held_best: Snapshot | None = None

    def save(self, meta: Meta, state: EngineState, progress: Progress) -> Path:
        """Write a checkpoint."""
        self.held = Snapshot(meta, state, progress)
        write_held([self])
        return self.directory / step_name(progress.step)

    def mark_best(self, step: int) -> None:
        """Make the newest checkpoint the best."""
        if self.held is not None:
            self.held_best = replace(self.held, state=self.held.state.alone())
        else:
            self.held_best = None
            self.link(BEST, step_name(step))
            self.prune()

    def take_held(self) -> list[Snapshot]:
        """Return the checkpoints to write, oldest first, without steps that are already on disk.

        A resumed run repeats the steps after its checkpoint. Any checkpoints on disk of steps after the newest one to
        write are removed: they are damaged, or the run would have been resumed from them, and would count as newest.
        """
        held = {one.name: one for one in (self.held_best, self.held) if one is not None}
        if not held:
            return []
        newest = max(held)
        for path in self.steps():
            if path.name > newest or (path.name in held and not is_valid(path)):
                discard(path)
            else:
                held.pop(path.name, None)
        last = self.held is not None and self.held.progress.step == self.held.progress.steps
        if last and not self.keep_optimizer_state:
            return [replace(one, state=EngineState(one.state.parameters)) for one in held.values()]
        return list(held.values())

    def link_held(self) -> None:
        """Link the checkpoints that were held in memory and are now on disk, and remove old checkpoints."""
        newest, best = self.held, self.held_best
        self.held = self.held_best = None
        if best is not None:
            self.link(BEST, best.name)
        if newest is not None:
            self.link(LATEST, newest.name)
            step = newest.progress.best_step
            if step is not None and best is None and self.lacks_best():
                found = linked(self.directory, BEST) or self.directory / step_name(step)
                if is_checkpoint(found):
                    self.link(BEST, found.name)
        if newest is not None or best is not None:
            self.prune()

    def finish(self) -> None:
        """Remove the checkpoints, and the moments in them, that are not needed after the last step."""
        self.keep = self.keep if self.keep_at_end is None else self.keep_at_end
        self.prune()
        if not self.keep_optimizer_state:
            for path in self.steps():
                remove_optimizer_state(path)

    def steps(self) -> list[Path]:
        """Return the paths of all checkpoints, including damaged ones, oldest first."""
        return [self.directory / name for name in sorted(self.names()) if name.startswith("step_")]

    def names(self) -> list[str]:
        try:
            return os.listdir(self.directory)  # noqa: PTH208 (several times faster than Path.iterdir)
        except FileNotFoundError:
            return []

    def lacks_best(self) -> bool:
        """Return whether this is a copy of a run, in which `best` is a directory or is missing."""
        return linked(self.directory, BEST) is None or is_directory(self.directory / BEST)

    def link(self, name: str, step: str) -> None:
        """Create or replace a symbolic link atomically; without support for links, a text file with the step's name."""
        path, temporary = self.directory / name, self.directory / f".{name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        try:
            with naming(path):
                try:
                    temporary.symlink_to(step)
                except OSError:
                    temporary.write_text(step + "\n")
                if is_directory(path):  # in a copied run, the link has become a directory
                    discard(path)
                temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def prune(self) -> None:
        """Keep the `keep` newest checkpoints and the best; remove the others and incomplete ones left by a crash."""
        names = self.names()
        steps = sorted(name for name in names if name.startswith("step_"))
        if len(steps) <= 1 and not any(name.startswith(".") for name in names):
            return
        best = linked(self.directory, BEST)
        kept = {*steps[-self.keep :], *([best.name] if best is not None else [])}
        for path in (self.directory / name for name in names if name.startswith(("step_", "."))):
            if path.name.startswith((f".{LATEST}.", f".{BEST}.")) and not is_directory(path):
                path.unlink(missing_ok=True)  # a link that `link` has not renamed yet
            elif path.name not in kept:
                discard(path)

    def where_newest(self) -> str:
        """Return the clause of an error message that gives the path of the newest checkpoint."""
        newest = self.newest()
        return "there is no checkpoint yet" if newest is None else f"the last checkpoint is kept in {newest.path}"

    def newest(self) -> Checkpoint | None:
        """Return the newest undamaged checkpoint, or None."""
        for path in reversed(self.steps()):
            try:
                return load_checkpoint(path)
            except UserError:
                continue
        return None


def write_held(stores: Sequence[CheckpointStore], others: Sequence[Path] = ()) -> None:
    """Write the checkpoints held by stores on one file system. The files `others` are flushed to disk with them."""
    write_directories(
        {store.directory / one.name: checkpoint_files(one) for store in stores for one in store.take_held()}, others
    )
    for store in stores:
        store.link_held()


def is_directory(path: Path) -> bool:
    """Return whether a path is a directory and not a link to one."""
    return path.is_dir() and not path.is_symlink()


def is_valid(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except UserError:
        return False
    return True


def discard(path: Path) -> None:
    """Remove a checkpoint directory. It is renamed to a hidden name first, so that a crash leaves no visible part."""
    if not path.name.startswith("."):
        hidden = path.with_name(f".{path.name}.old")
        shutil.rmtree(hidden, ignore_errors=True)
        try:
            path.rename(hidden)
        except FileNotFoundError:
            return
        path = hidden
    shutil.rmtree(path, ignore_errors=True)
