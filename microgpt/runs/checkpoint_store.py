"""The checkpoints of a run: which are kept, which are `latest` and `best`, and which wait in memory to be written."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from microgpt.atomic import naming
from microgpt.engines.base import EngineState
from microgpt.errors import UserError
from microgpt.runs.checkpoint import Checkpoint, Snapshot, checkpoint_files, load_checkpoint, write_directories
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.runs.checkpoint_paths import BEST, LATEST, is_checkpoint, linked, step_name


class CheckpointStore:
    """The checkpoints of one run: holds the newest and the best, writes them, links them, removes old ones."""

    def __init__(self, directory: Path, keep: int, keep_at_end: int | None = None):
        """`keep` newest checkpoints stay besides the best, after the last step `keep_at_end`."""
        self.directory = directory
        self.keep = keep
        self.keep_at_end = keep if keep_at_end is None else keep_at_end
        self.held: Snapshot | None = None  # the newest, until it is written
        self.held_best: Snapshot | None = None

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
        """Return what is to be written, the oldest first. Steps that are on disk already are not.

        A run that was resumed from a checkpoint passes its step again. Later ones are damaged, or the run would have
        been resumed from them; kept, they would count as the newest.
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
        return list(held.values())

    def link_held(self) -> None:
        """Link the checkpoints that were held, which are on disk now, and remove old ones."""
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
        """Remove the checkpoints that are not needed after the last step."""
        self.keep = self.keep_at_end
        self.prune()

    def steps(self) -> list[Path]:
        """Return the paths of the checkpoints, damaged ones too, the oldest first."""
        return [self.directory / name for name in sorted(self.names()) if name.startswith("step_")]

    def names(self) -> list[str]:
        try:
            return os.listdir(self.directory)  # noqa: PTH208 (several times as fast as Path.iterdir)
        except FileNotFoundError:
            return []

    def lacks_best(self) -> bool:
        """Return whether this is a copy of a run, in which `best` is a directory or is missing."""
        return linked(self.directory, BEST) is None or is_directory(self.directory / BEST)

    def link(self, name: str, step: str) -> None:
        """Make or replace a symbolic link atomically; a text file that names the step if the system has no links."""
        path, temporary = self.directory / name, self.directory / f".{name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        try:
            with naming(path):
                try:
                    temporary.symlink_to(step)
                except OSError:
                    temporary.write_text(step + "\n")
                if is_directory(path):  # of a copied run, where the link has become its target
                    discard(path)
                temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def prune(self) -> None:
        """Keep the newest `keep` checkpoints and the best; remove the others and what a crash left incomplete."""
        names = self.names()
        steps = sorted(name for name in names if name.startswith("step_"))
        if len(steps) <= 1 and not any(name.startswith(".") for name in names):
            return
        best = linked(self.directory, BEST)
        kept = {*steps[-self.keep :], *([best.name] if best is not None else [])}
        for path in (self.directory / name for name in names if name.startswith(("step_", "."))):
            if path.name.startswith((f".{LATEST}.", f".{BEST}.")) and not is_directory(path):
                path.unlink(missing_ok=True)  # a link that `link` had not yet renamed
            elif path.name not in kept:
                discard(path)

    def where_newest(self) -> str:
        """Return the clause of an error message that names the newest checkpoint."""
        newest = self.newest()
        return "there is no checkpoint yet" if newest is None else f"the last checkpoint is kept in {newest.path}"

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is not damaged, or None."""
        for path in reversed(self.steps()):
            try:
                return load_checkpoint(path)
            except UserError:
                continue
        return None


def write_held(stores: Sequence[CheckpointStore], others: Sequence[Path] = ()) -> None:
    """Write the checkpoints that stores of one file system hold; the files `others` are flushed to disk with them."""
    write_directories(
        {store.directory / one.name: checkpoint_files(one) for store in stores for one in store.take_held()}, others
    )
    for store in stores:
        store.link_held()


def is_directory(path: Path) -> bool:
    """Return whether a path is a directory itself, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def is_valid(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except UserError:
        return False
    return True


def discard(path: Path) -> None:
    """Remove a checkpoint directory; it is hidden first, so that a crash leaves no visible part."""
    if not path.name.startswith("."):
        hidden = path.with_name(f".{path.name}.old")
        shutil.rmtree(hidden, ignore_errors=True)
        try:
            path.rename(hidden)
        except FileNotFoundError:
            return
        path = hidden
    shutil.rmtree(path, ignore_errors=True)
