"""MLflow by its client, in a SQLite file below the outputs unless MLFLOW_TRACKING_URI says otherwise.

mlflow-skinny is enough, with the two libraries of its database; all of mlflow is for the server that shows the runs.
"""

import logging
import os
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from filelock import FileLock

from microgpt.training.loggers.base import DEFAULT_PROJECT, LoggedRun, Point, Record, final_figures, final_texts

STATUS = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
LINES_A_CALL = 200  # MLflow takes up to 1000 values at a time, and a line has four
PARAMS_A_CALL = 100
LONGEST_PARAM = 6000  # characters that MLflow takes


def connect(run: LoggedRun) -> "MlflowRun":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # each twice as long as the one before
    mlflow: Any = import_module("mlflow")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(
            logging.CRITICAL
        )  # what fails is raised as well, and said by whoever catches it
    client, experiment = open_store(mlflow, run)
    identity = run.remembered()
    if identity is None:
        identity = begin(mlflow, client, experiment, run)
        run.remember(identity)
        return MlflowRun(mlflow, client, identity, held=-1)
    client.update_run(identity, status="RUNNING")
    steps = [metric.step for metric in client.get_metric_history(identity, "tokens")]  # as every line has
    return MlflowRun(mlflow, client, identity, max(steps, default=-1))


def open_store(mlflow: Any, run: LoggedRun) -> tuple[Any, str]:
    """A client, and the id of the experiment."""
    name = run.options.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_PROJECT
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if address:
        return (client := mlflow.MlflowClient(address)), experiment_of(mlflow, client, name, None)
    run.store.mkdir(parents=True, exist_ok=True)
    with FileLock(run.store / ".lock"):  # two processes cannot make the tables at a time
        client = mlflow.MlflowClient(f"sqlite:///{run.store / 'mlflow.db'}")
        return client, experiment_of(mlflow, client, name, (run.store / "artifacts").as_uri())


def experiment_of(mlflow: Any, client: Any, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except mlflow.MlflowException:
            found = client.get_experiment_by_name(name)  # another process was quicker
            if found is None:
                raise
    return found.experiment_id


def begin(mlflow: Any, client: Any, experiment: str, run: LoggedRun) -> str:
    """A new run with its settings; its id."""
    tags = {"mlflow.source.name": run.record.get("command") or "microgpt"}
    if run.group:
        tags["sweep"] = run.group
    if commit := run.settings()["git_commit"]:
        tags["mlflow.source.git.commit"] = commit
    identity = client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
    settings = [
        mlflow.entities.Param(key, "null" if value is None else str(value)[:LONGEST_PARAM])
        for key, value in run.settings().items()
    ]
    for start in range(0, len(settings), PARAMS_A_CALL):
        client.log_batch(identity, params=settings[start : start + PARAMS_A_CALL])
    return identity


class MlflowRun:
    """A run by its id."""

    def __init__(self, mlflow: Any, client: Any, identity: str, held: int):
        self.mlflow = mlflow
        self.client = client
        self.identity = identity
        self.last = held

    def last_step(self) -> int:
        return self.last

    def write(self, points: Sequence[Point]) -> None:
        for start in range(0, len(points), LINES_A_CALL):
            part = points[start : start + LINES_A_CALL]
            # The same value with the same time counts once: a call that failed half way may be made again.
            self.client.log_batch(
                self.identity,
                metrics=[
                    self.mlflow.entities.Metric(key, value, int(point.time * 1000), point.step)
                    for point in part
                    for key, value in point.values.items()
                ],
            )
            self.last = part[-1].step

    def close(self, record: Record) -> None:
        now, step = int(time.time() * 1000), max(self.last, 0)
        figures = [self.mlflow.entities.Metric(key, value, now, step) for key, value in final_figures(record).items()]
        if figures:
            self.client.log_batch(self.identity, metrics=figures)
        for name, text in final_texts(record).items():
            self.client.log_text(self.identity, text + "\n", f"{name}.txt")
        self.client.set_terminated(self.identity, STATUS.get(record["status"], "FAILED"))
