"""What a comparison consists of: programs that train the same, and how to read what they print. Plain data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from karpathy.commands import Command, Finished
from karpathy.measures import Figures
from karpathy.workloads import Precision, Workload

# What becomes of a run, and of a contestant: the last two have no runs.
COMPLETED, FAILED, TIMED_OUT, FELL_BACK = "completed", "failed", "timed out", "cpu fallback"
UNAVAILABLE, NOT_RUN = "unavailable", "not run"


@dataclass(frozen=True)
class Launch:
    """One run of a contestant: what is run, and how its figures are read once it has ended well."""

    command: Command
    read: Callable[[Finished], Figures]  # raises NoFiguresError
    prepare: Callable[[], None] = lambda: None  # writes the files that it needs


@dataclass(frozen=True)
class Contestant:
    """A program in one setting. `launch` takes the workload and the number of the round, from which it names files."""

    label: str
    is_ours: bool
    precision: Precision
    device: str  # on which it is to compute
    launch: Callable[[Workload, int], Launch]
    against: str | None = None  # of ours: the label of the baseline that it is compared with
    differences: Sequence[str] = ()  # keys of the comparison's differences that hold for this one


@dataclass
class Run:
    """What became of one run; round 0 is the warm-up."""

    contestant: str
    round: int
    status: str
    reason: str = ""  # a sentence where it is not completed
    figures: Figures | None = None
    command: str = ""
    cwd: str = ""
    log: str = ""
    exit_code: int | None = None
    wall_seconds: float = 0.0
    peak_memory: int = 0
    peak_gpu_memory: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "figures": self.figures and self.figures.to_dict()}


@dataclass
class Comparison:
    """Ours and one baseline: who takes part, what differs, what came of it."""

    baseline: str
    workload: Workload
    source: dict[str, Any]  # which version of the baseline, and where it came from
    contestants: list[Contestant]
    differences: dict[str, str]  # key -> sentence
    prepare: Callable[[], None] = lambda: None  # writes the files that all need; raises UserError
    data_command: Command | None = None  # what must run before
    runs: list[Run] = field(default_factory=list)
    problem: str = ""  # why the baseline could not be made ready
    notes: list[str] = field(default_factory=list)
    val_loss: float | None = None  # the loss to which time is told

    def counted(self, label: str) -> list[Run]:
        """The completed runs of a contestant that count."""
        return [r for r in self.runs if r.contestant == label and r.round > 0 and r.status == COMPLETED]
