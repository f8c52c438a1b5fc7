"""Logging with Weights & Biases, offline unless WANDB_MODE is set: no account, no prompt, no network.

Offline, every process that works on a run writes its own folder in <outputs>/wandb, with the run's id in the folder
name; `wandb sync` uploads these folders in order as one run.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from microgpt.runs.record import RunRecord
from microgpt.training.loggers.base import DEFAULT_PROJECT, FINAL, LoggedRun, Point, final_figures, final_texts

EXIT_CODES = {"completed": 0, "failed": 1, "interrupted": 130}


def connect(run: LoggedRun) -> "WandbRun":
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # do not send errors to wandb's developers
    wandb: Any = import_module("wandb")
    mode = os.environ.get("WANDB_MODE", "offline")
    folder = Path(os.environ.get("WANDB_DIR") or run.outputs.absolute())  # wandb appends its own name
    folder.mkdir(parents=True, exist_ok=True)
    run_id = run.known_id()
    files = [] if run_id is None else list((folder / "wandb").glob(f"offline-run-*-{run_id}/*.wandb"))
    if run_id is None:
        run_id = secrets.token_hex(8)
        run.save_id(run_id)
    record = run.record.document()
    handle = wandb.init(
        project=run.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
        id=run_id,
        name=run.name,
        group=run.group,
        dir=str(folder),
        mode=mode,
        config={**record["config"], "config_hash": record["config_hash"], "git": record["git"]},
        resume="allow",
        reinit="create_new",  # keeps the other runs of this process open
        settings=wandb.Settings(
            silent=mode == "offline",  # online, wandb prints the run's URL and errors
            quiet=True,
            console="off",
            save_code=False,
            disable_git=True,  # run.json has the commit
            x_disable_stats=True,
            x_save_requirements=False,
        ),
    )
    last_step = max(map(last_step_in, files), default=-1) if mode == "offline" else handle.step - 1
    return WandbRun(wandb, handle, last_step)


def last_step_in(file: Path) -> int:
    """Return the last step in a file that wandb wrote, or -1 if the file has no step or cannot be read.

    If the process was killed, the file lacks the last seconds of the run, or is empty.
    """
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout)["summary"].get("_step", -1) if done.returncode == 0 else -1


class WandbRun:
    """A run that wandb.init has opened."""

    def __init__(self, wandb: Any, handle: Any, last_step: int):
        self.wandb = wandb
        self.handle = handle
        self.last_step = last_step
        self.last_written = -1  # by this process

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self.handle.log(point.values, step=point.step)
            self.last_step = self.last_written = point.step

    def close(self, record: RunRecord) -> None:
        # An HTML page is stored as a file of the run; a table would be an artifact in the user's home folder.
        texts = {
            tag: self.wandb.Html(f"<pre>{escape(text)}</pre>", inject=False)
            for tag, text in final_texts(record).items()
        }
        self.handle.summary.update({**texts, **final_figures(record), f"{FINAL}status": record.status})
        self.handle.finish(exit_code=EXIT_CODES[record.status])
        for file in Path(self.handle.dir).parent.glob("*.wandb") if self.handle.offline else ():
            if last_step_in(file) < self.last_written:  # wandb does not report a full disk
                raise OSError(f"{file} is incomplete: its last lines could not be written")
