"""run.json: the configuration, the environment and the results of a run, written when it starts and when it ends.

The fields of `RunRecord` and its parts are the keys of run.json, in this order.
"""

import json
import shlex
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from microgpt.atomic import json_text, write_atomically
from microgpt.distributed import this_process
from microgpt.runs.environment import Environment, GitState, environment, git_state
from microgpt.runs.invocation import Invocation
from microgpt.runs.record_json import OMIT_IF_EMPTY, parse, plain, without_non_finite

RECORD = "run.json"
SCHEMA_VERSION = 1
STOPPED = ("running", "interrupted")  # statuses of runs that can be resumed; "running" without a lock: it was killed


@dataclass(frozen=True)
class RunIdentity:
    """Identifies what a run computes: runs with the same identity have the same results."""

    config_hash: str
    data_sha256: str | None


@dataclass(frozen=True)
class LongDocuments:
    policy: str
    count: int


@dataclass(frozen=True)
class DataSummary:
    name: str
    sha256: str | None
    documents: int
    train_documents: int
    val_documents: int
    train_examples: int
    evaluated_documents: int
    train_tokens: int
    vocab_size: int
    long_documents: LongDocuments
    conversations: dict[str, int] | None  # chat data: skipped, trimmed, truncated; system turns dropped
    baselines: dict[str, float | None] | None  # nats per target token of `uniform`, `unigram`, `bigram`


@dataclass(frozen=True)
class ModelSummary:
    kind: str
    parameter_count: int
    tie_lm_head: bool
    input_rmsnorm: bool


@dataclass(frozen=True)
class StyleEffect:
    """The effect of the style's documents and bias. Losses in nats per target token, rates as fractions of samples."""

    documents: int
    train_documents: int
    val_documents: int
    share: float
    train_loss: float | None
    val_loss: float | None
    bias: float
    phrase_rate: float | None
    phrase_rate_without_bias: float | None


@dataclass
class Metrics:
    """Losses in nats per target token; rates in steps and target tokens per second."""

    parameter_count: int
    steps: int
    final_loss: float | None
    mean_loss_last_n: float | None
    last_n: int
    val_loss: float | None
    first_val_loss: float | None
    best_val_loss: float | None
    best_step: int | None
    bits_per_character: float | None
    perplexity: float | None
    steps_per_sec: float
    tokens_per_sec: float
    rate_warmup_steps: int
    train_tokens: int
    tokens_seen: int
    vocab_size: int
    style_effect: StyleEffect | None = field(default=None, metadata=OMIT_IF_EMPTY)


@dataclass(frozen=True)
class Timings:
    compile: float  # seconds, like all fields
    train: float
    evaluate: float
    checkpoint: float


@dataclass(frozen=True)
class Leg:
    """The checkpoint from which train.resume=<folder> continues."""

    from_: str
    first_step: int
    optimizer_state: bool = True  # False: the checkpoint has no optimizer state, so moments start at zero
    other_data: list[str] = field(default_factory=list, metadata=OMIT_IF_EMPTY)  # differences from its data


@dataclass(frozen=True)
class Failure:
    """An earlier, failed attempt. The run started again in the same folder."""

    at: str | None
    error: str | None


@dataclass(frozen=True)
class Provenance:
    """The code and the machine of one part of a run."""

    git: GitState | None
    environment: Environment | None
    processes: int | None


@dataclass(frozen=True)
class Resumption:
    at: str
    step: int
    before: Provenance  # provenance of the part before this resumption


@dataclass(kw_only=True)
class RunRecord:
    """The content of run.json. In a record that was read, a missing key has its default value or is None."""

    schema_version: int
    run_id: str | None = None
    status: str  # running, interrupted, failed, completed
    task: str | None
    started_at: str | None
    finished_at: str | None = None
    command: str | None  # for a job of a sweep, the command of the sweep
    overrides: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    config_hash: str | None  # None for a configuration that could not be checked
    seed: int | None
    git: GitState | None
    data: DataSummary | None = None
    model: ModelSummary | None = None
    mode: str | None
    style: str | None
    backend: str | None
    device: str | None = None
    using_gpu: bool | None = None
    dtype: str | None = None
    kernel: str | None = None
    threads: int | None = None
    processes: int | None
    backend_reason: str | None = None
    group: int | None = None  # number of runs that the engine trained side by side
    environment: Environment | None
    metrics: Metrics | None = None
    timings: Timings | None = None
    samples: list[str] = field(default_factory=list)
    error: str | None = None
    trial: int | None = field(default=None, metadata=OMIT_IF_EMPTY)  # trial number in an optimizing sweeper's study
    leg: Leg | None = field(default=None, metadata=OMIT_IF_EMPTY)
    earlier_failures: list[Failure] = field(default_factory=list, metadata=OMIT_IF_EMPTY)
    resumed: list[Resumption] = field(default_factory=list, metadata=OMIT_IF_EMPTY)

    @classmethod
    def new(cls, config: dict[str, Any], config_hash: str | None, invocation: Invocation) -> "RunRecord":
        """Return the record of a run whose data has not been read yet. `config` is the whole configuration."""
        groups = ("task", "mode", "style", "backend")
        task, mode, style, backend = ((config.get(group) or {}).get("name") for group in groups)
        return cls(
            schema_version=SCHEMA_VERSION,
            status="running",
            task=task,
            started_at=timestamp(),
            command=shlex.join([*this_process().launcher(), *sys.argv[1:]]),
            overrides=list(invocation.overrides),
            config=config,
            config_hash=config_hash,
            seed=config.get("seed"),
            git=git_state(),
            mode=mode,
            style=style,
            backend=backend,
            processes=this_process().world_size,
            environment=environment(),
            trial=invocation.job.trial if invocation.job else None,
        )

    @classmethod
    def read(cls, folder: Path) -> "RunRecord | None":
        """Read the record in a run's folder. Returns None if it is missing or damaged."""
        try:
            return parse(cls, json.loads((folder / RECORD).read_bytes()))
        except (OSError, ValueError, RecursionError):
            return None

    def write(self, folder: Path) -> None:
        write_atomically(folder / RECORD, self.text())

    def text(self) -> str:
        """Return the content of run.json."""
        document = self.document()
        try:
            return json_text(document)
        except ValueError:
            return json_text(without_non_finite(document))

    def document(self) -> dict[str, Any]:
        """Return the content of run.json as dictionaries."""
        return plain(self)

    @property
    def identity(self) -> RunIdentity | None:
        """The identity of the run; None if its configuration could not be checked."""
        data_sha256 = self.data.sha256 if self.data else None
        return RunIdentity(self.config_hash, data_sha256) if isinstance(self.config_hash, str) else None

    def provenance(self) -> Provenance:
        return Provenance(self.git, self.environment, self.processes)


def timestamp() -> str:
    """Return the current time in UTC as ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
