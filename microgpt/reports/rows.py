"""Rows: the data of a run in a report, with the columns of the tables in order."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from microgpt.reports.settings import Settings, SharedSettings, differing_keys, setting, settings_of

JOB = re.compile(r"(?:sweeps/)?([^/]+)/(\d+)(?:-\d+)?")  # run_id of a sweep's job: the sweep, the job's number
# Keys that have a column of another name
HAVE_COLUMNS = ("model.tie_lm_head", "model.input_rmsnorm", "model.name", "style.name", "data.name", "mode.name")
REPORT_ONLY = {"report_only": True}  # metadata of a field that is not a column


@dataclass(frozen=True, eq=False)
class Row:
    """One run: the columns of the tables, in order, and the fields that only the report shows.

    Losses are in nats per target token. A run that is not completed may lack any of the metrics.
    """

    variant: str
    tie_lm_head: bool
    input_rmsnorm: bool
    style: str
    parameter_count: int | None
    steps: int | None
    seed: Any  # an integer; anything in the record of a run that failed
    final_loss: float | None
    mean_loss_last_n: float | None
    last_n: int | None
    steps_per_sec: float | None
    tokens_per_sec: float | None
    vocab_size: int | None
    train_tokens: int | None
    val_loss: float | None
    best_val_loss: float | None
    best_step: int | None
    first_val_loss: float | None
    bits_per_character: float | None
    perplexity: float | None
    tokens_seen: int | None
    status: str
    mode: str | None
    backend: str | None
    device: str | None
    using_gpu: bool | None
    dtype: str | None
    run_id: str
    started_at: str
    finished_at: str | None
    config_hash: str | None
    error: str | None
    model: str
    first_step: int
    leg_from: str | None
    leg_other_data: str | None
    data: str
    data_sha256: str | None
    git_commit: str | None
    git_dirty: bool | None
    trial: int | None  # of an optimizing sweeper's study
    tags: str  # separated by commas
    notes: str
    path: str  # the run's folder
    config: dict[str, Any]
    evaluated_documents: int | None = field(metadata=REPORT_ONLY)
    long_documents: int | None = field(metadata=REPORT_ONLY)
    command: str = field(metadata=REPORT_ONLY)
    environment: str = field(metadata=REPORT_ONLY)  # `backend native, ..., python 3.11.7`
    samples: tuple[str, ...] = field(metadata=REPORT_ONLY)
    baselines: dict[str, float] = field(metadata=REPORT_ONLY)  # nats per token of `uniform`, `unigram` and `bigram`

    @cached_property
    def folder(self) -> Path:
        return Path(self.path)

    @cached_property
    def job(self) -> re.Match[str] | None:
        """The sweep and the number of a job of a sweep; None for another run."""
        return JOB.fullmatch(str(self.run_id))

    @property
    def is_completed(self) -> bool:
        """Whether the run was completed with finite losses."""
        losses = (self.mean_loss_last_n, self.val_loss)
        return self.status == "completed" and all(loss is None or is_finite(loss) for loss in losses)

    @cached_property
    def shared(self) -> SharedSettings:
        return settings_of(self.config, self.backend, self.data_sha256)

    @property
    def settings(self) -> Settings:
        """Everything that affects training, except the seed."""
        return self.shared.training

    @property
    def fingerprint(self) -> str:
        """Equal for runs of one variant."""
        return self.shared.fingerprint

    def setting(self, group: str, key: str) -> Any:
        return (self.config.get(group) or {}).get(key)

    @property
    def recorded_settings(self) -> Settings:
        """Everything that affects training or another output, except the seed."""
        return self.shared.recorded

    def columns(self, keys: Sequence[str] = (), **more: Any) -> dict[str, Any]:
        """Return the columns of the tables; `more` and the settings `keys` are before the configuration."""
        known = {name: getattr(self, name) for name in COLUMNS[:-1]}
        return known | more | {key: setting(self.recorded_settings, key) for key in keys} | {"config": self.config}


COLUMNS = [one.name for one in fields(Row) if "report_only" not in one.metadata]


def swept_keys(rows: Sequence[Row]) -> list[str]:
    """Return the keys in which rows differ, without those that have a column in any case.

    Left out are also keys that follow from another: an optimizer's own keys, if the optimizers differ.
    """
    return [key for key in differing_keys([row.recorded_settings for row in rows]) if key not in HAVE_COLUMNS]


def is_finite(value: Any) -> TypeGuard[float]:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def variant_name(tie_lm_head: bool, input_rmsnorm: bool) -> str:
    return f"{'tied' if tie_lm_head else 'untied'}_{'' if input_rmsnorm else 'no_'}input_rmsnorm"
