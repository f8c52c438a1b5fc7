"""Logging with MLflow's client, to a SQLite file in the outputs folder unless MLFLOW_TRACKING_URI is set.

Needs mlflow-skinny and two libraries for the database; the server that displays the runs needs the full mlflow package.
"""

import logging
import os
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from filelock import FileLock

from microgpt.runs.record import RunRecord
from microgpt.training.loggers.base import DEFAULT_PROJECT, LoggedRun, Point, final_figures, final_texts

STATUS = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
LINES_PER_CALL = 200  # MLflow accepts 1000 values at a time, and a line has up to four
PARAMS_PER_CALL = 100
LONGEST_PARAM = 6000  # maximum number of characters that MLflow accepts


def connect(run: LoggedRun) -> "MlflowRun":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # each waits twice as long as the previous one
    mlflow = import_module("mlflow")  # the import sets the level of mlflow's logger, so it must come first
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are also raised as exceptions
    return MlflowRun(mlflow, run)


class MlflowRun:
    """A run in MLflow, identified by its id."""

    def __init__(self, mlflow: Any, run: LoggedRun):
        self.mlflow = mlflow
        self.client, experiment = open_store(mlflow, run)
        self.last_step = -1
        run_id = run.known_id()
        if run_id is None:
            run_id = create_run(mlflow, self.client, experiment, run)
            run.save_id(run_id)
        else:
            self.client.update_run(run_id, status="RUNNING")
            history = self.client.get_metric_history(run_id, "tokens")  # every line has this key
            self.last_step = max((metric.step for metric in history), default=-1)
        self.run_id = run_id

    def write(self, points: Sequence[Point]) -> None:
        for start in range(0, len(points), LINES_PER_CALL):
            part = points[start : start + LINES_PER_CALL]
            # MLflow stores the same value at the same time only once, so a call that failed halfway can be repeated.
            self.client.log_batch(
                self.run_id,
                metrics=[
                    self.mlflow.entities.Metric(key, value, int(point.time * 1000), point.step)
                    for point in part
                    for key, value in point.values.items()
                ],
            )
            self.last_step = part[-1].step

    def close(self, record: RunRecord) -> None:
        now, step = int(time.time() * 1000), max(self.last_step, 0)
        figures = [self.mlflow.entities.Metric(key, value, now, step) for key, value in final_figures(record).items()]
        if figures:
            self.client.log_batch(self.run_id, metrics=figures)
        for name, text in final_texts(record).items():
            self.client.log_text(self.run_id, text + "\n", f"{name}.txt")
        self.client.set_terminated(self.run_id, STATUS[record.status])


def open_store(mlflow: Any, run: LoggedRun) -> tuple[Any, str]:
    """Return a client and the id of the experiment."""
    name = run.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_PROJECT
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        client = mlflow.MlflowClient(uri)
        return client, experiment_id(mlflow, client, name, None)
    run.store.mkdir(parents=True, exist_ok=True)
    with FileLock(run.store / ".lock"):  # two processes must not create the tables at the same time
        client = mlflow.MlflowClient(f"sqlite:///{run.store / 'mlflow.db'}")
        return client, experiment_id(mlflow, client, name, (run.store / "artifacts").as_uri())


def experiment_id(mlflow: Any, client: Any, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except mlflow.MlflowException:
            found = client.get_experiment_by_name(name)  # another process may have created it in the meantime
            if found is None:
                raise
    return found.experiment_id


def create_run(mlflow: Any, client: Any, experiment: str, run: LoggedRun) -> str:
    """Create a run with its settings and return its id."""
    tags = {"mlflow.source.name": run.record.command or "microgpt"}
    if run.group:
        tags["sweep"] = run.group
    if commit := run.settings()["git_commit"]:
        tags["mlflow.source.git.commit"] = commit
    run_id = client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
    params = [
        mlflow.entities.Param(key, "null" if value is None else str(value)[:LONGEST_PARAM])
        for key, value in run.settings().items()
    ]
    for start in range(0, len(params), PARAMS_PER_CALL):
        client.log_batch(run_id, params=params[start : start + PARAMS_PER_CALL])
    return run_id
