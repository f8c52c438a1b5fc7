"""Weights & Biases, offline unless WANDB_MODE says otherwise: no account, no question, no network.

Offline every process that works on a run leaves a folder of its own below <store>/wandb, with the run's id in its name;
`wandb sync` uploads them in their order as one run.
"""

import json
import os
import secrets
import subprocess
from collections.abc import Sequence
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from microgpt.training.loggers.base import DEFAULT_PROJECT, FINAL, LoggedRun, Point, Record, final_figures, final_texts

EXIT_CODES = {"completed": 0, "interrupted": 130}  # 1 for the rest


def connect(run: LoggedRun) -> "WandbRun":
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # of wandb's own errors, to its makers
    wandb: Any = import_module("wandb")
    mode = os.environ.get("WANDB_MODE", "offline")
    folder = Path(os.environ.get("WANDB_DIR") or run.store.parent)  # wandb adds its own name
    folder.mkdir(parents=True, exist_ok=True)
    begun = run.remembered()
    identity = begun or secrets.token_hex(8)
    parts = [] if begun is None else list((folder / "wandb").glob(f"offline-run-*-{identity}/*.wandb"))
    if begun is None:
        run.remember(identity)
    handle = wandb.init(
        project=run.options.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
        id=identity,
        name=run.name,
        group=run.group,
        dir=str(folder),
        mode=mode,
        config={**run.record["config"], "config_hash": run.record.get("config_hash"), "git": run.record.get("git")},
        resume="allow",
        reinit="create_new",  # beside the other runs of this process
        settings=wandb.Settings(
            silent=mode == "offline",  # else it says where to look, and what fails
            quiet=True,
            console="off",
            save_code=False,
            disable_git=True,  # run.json has told
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )
    held = max(map(last_step_in, parts), default=-1) if mode == "offline" else handle.starting_step - 1
    return WandbRun(wandb, handle, held)


def last_step_in(file: Path) -> int:
    """The last step in a file that wandb wrote, by wandb's own tool; -1 where it finds none, or cannot read the file.

    The file of a process that was killed lacks its last seconds, or everything.
    """
    core = import_module("wandb.util").get_core_path()  # what `wandb leet` starts, without a second of Python before it
    options = ["--no-observability", "--summary", "--json", "--run-file", str(file)]
    done = subprocess.run([core, "leet", "inspect", *options, str(file.parent.parent)], capture_output=True, text=True)
    return json.loads(done.stdout)["summary"].get("_step", -1) if done.returncode == 0 else -1


class WandbRun:
    """A run that wandb.init has opened."""

    def __init__(self, wandb: Any, handle: Any, held: int):
        self.wandb = wandb
        self.handle = handle
        self.last = held
        self.written = -1  # by this process

    def last_step(self) -> int:
        return self.last

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self.handle.log(point.values, step=point.step)
            self.last = self.written = point.step

    def close(self, record: Record) -> None:
        # A page is a file among the run's own; a table would be an artifact, kept in the user's home.
        texts = {
            tag: self.wandb.Html(f"<pre>{escape(text)}</pre>", inject=False)
            for tag, text in final_texts(record).items()
        }
        self.handle.summary.update({**texts, **final_figures(record), f"{FINAL}status": record["status"]})
        self.handle.finish(exit_code=EXIT_CODES.get(record["status"], 1))
        for file in Path(self.handle.dir).parent.glob("*.wandb") if self.handle.offline else ():
            if last_step_in(file) < self.written:  # wandb itself would tell nobody
                raise OSError(f"{file} could not be written whole")
