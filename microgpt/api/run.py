"""Trained runs: their records, histories, samples and models, individually or as tables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from microgpt.errors import UserError
from microgpt.runs.record import RECORD, Metrics, RunRecord

if TYPE_CHECKING:
    import pandas as pd

    from microgpt.api.model import Model, Text
    from microgpt.reports.rows import Row

HISTORY_COLUMNS = ("step", "loss", "lr", "tokens", "val_loss")


class Run:
    """A run in its folder, as returned by `microgpt.train`. It can be used as the path of the folder.

    Runs are equal if their folders and records are.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        """Raises UserError unless the folder contains the record of a run."""
        self.folder = folder_of(folder)
        record = RunRecord.read(self.folder)
        if record is None:
            raise UserError(f"{self.folder} is not the folder of a run: it has no readable {RECORD}")
        self.record: RunRecord = record  # the content of run.json: configuration, environment and results

    def __fspath__(self) -> str:
        return str(self.folder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and (self.folder, self.record) == (other.folder, other.record)

    def __hash__(self) -> int:
        return hash(self.folder)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy the run without its model, which reads the checkpoint when it is used."""
        return {name: value for name, value in vars(self).items() if name != "model"}

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration: `run.config["optim"]["lr"]`."""
        return self.record.config

    @property
    def metrics(self) -> Metrics:
        """Losses in nats per target token, rates in steps and target tokens per second.

        Raises UserError if the run ended before training started.
        """
        if self.record.metrics is None:
            raise UserError(f"the run in {self.folder} has no metrics: its status is {self.record.status}")
        return self.record.metrics

    @property
    def samples(self) -> list[str]:
        """The samples that the run generated after its last step."""
        return self.record.samples

    @cached_property
    def validation_documents(self) -> list[Text]:
        """The documents on which val_loss was measured: texts, or conversations of a chat model.

        `model.loss(run.validation_documents)` is val_loss, unless documents are pieces of a stream, are longer than the
        block, or have other targets than answers (data.loss_on). Raises UserError if the text has changed since the
        run.
        """
        from microgpt.api.documents import validation_documents

        return validation_documents(self.record)

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per logged step: step, loss, lr, tokens (so far) and, if the step was evaluated, val_loss."""
        import pandas as pd

        from microgpt.runs.folders import HISTORY
        from microgpt.runs.history import History

        return pd.DataFrame(History(self.folder / HISTORY).lines(), columns=list(HISTORY_COLUMNS))

    @cached_property
    def model(self) -> Model:
        """The model after the last step, on the engine that trained it. `microgpt.load` can use other engines."""
        from microgpt.api.model import load

        return load(self.folder, *engine_overrides(self.record))

    def __repr__(self) -> str:
        return f"<Run {shown(self.folder)}: {', '.join(f'{name} {value}' for name, value in key_facts(self.record))}>"

    def _repr_html_(self) -> str:
        from microgpt.api.display import run_html

        return run_html(self)


class Runs(Sequence[Run]):
    """The runs in some folders, oldest first, a sweep's runs by number. `microgpt.sweep` returns a sweep's runs."""

    def __init__(self, *folders: str | os.PathLike[str]):
        """Raises UserError for a folder that does not exist."""
        self.folders = tuple(map(folder_of, folders))
        self.rows = read_rows_of(self.folders)  # the same rows as in the report

    def __reduce__(self) -> Any:
        """Pickle and copy the folders: a copy reads the records again."""
        return Runs, self.folders

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Runs) and (self.folders, self._runs) == (other.folders, other._runs)

    def __hash__(self) -> int:
        return hash(self.folders)

    @cached_property
    def _runs(self) -> list[Run]:
        return [Run(row.folder) for row in self.rows]

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> list[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | list[Run]:
        return self._runs[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    @property
    def not_completed(self) -> list[Run]:
        """The runs that failed or were interrupted. `record.error` contains the reason."""
        return [run for run, row in zip(self._runs, self.rows, strict=True) if not row.is_completed]

    def dataframe(self) -> pd.DataFrame:
        """Return one row per run: the keys in which the runs differ, the results, and the columns of results/."""
        from microgpt.api.differences import table

        return table(self.rows)

    def compare(self, key: str) -> pd.DataFrame:
        """Return the differences between the values of a key, seed by seed, with 95 % intervals, as in the report.

        Each row compares runs that differ only in `key` (`optim.lr`, or a group such as `optim`) and in the seed.
        `difference` is the mean over the seeds of the metric at the first value minus the metric at the second, in nats
        per target token: if it is negative, the first value is better. `verdict` is based on `p_holm`, which is
        adjusted for all rows. Raises UserError for a key in which the runs do not differ, and if their losses are not
        comparable, for example those of styles with other characters.
        """
        from microgpt.api.comparison import comparison_table

        return comparison_table(self.rows, key)

    def report(self, path: str | os.PathLike[str] = "report.html") -> Path:
        """Write the report of these runs as one HTML page that needs no network access, and return its path."""
        from microgpt.atomic import write_atomically
        from microgpt.reports.html import html
        from microgpt.reports.records import Collected
        from microgpt.reports.sections import family_reports, page_report

        if not self.rows:
            raise UserError("there are no runs to report on")
        page = Path(path)
        if page.is_dir():
            raise UserError(f"{page} is a folder: the report is a file, such as {page / 'report.html'}")
        content = html(page_report(Collected(list(self.rows)), family_reports(self.rows)))
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(page, content)
        except OSError as error:
            raise UserError(f"{page} cannot be written: {error.strerror}") from error
        return page

    def __repr__(self) -> str:
        return f"<Runs {' '.join(map(shown, self.folders))}: {self.counts()}>"

    def _repr_html_(self) -> str:
        from microgpt.api.display import runs_html

        return runs_html(self)

    def counts(self) -> str:
        """Return `16 runs, 1 not completed`."""
        missing = sum(not row.is_completed for row in self.rows)
        counted = f"{len(self)} run{'s' * (len(self) != 1)}"
        return f"{counted}, {missing} not completed" if missing else counted


def runs(folder: str | os.PathLike[str] = "outputs") -> pd.DataFrame:
    """Return one row per run in a folder, oldest first: `Runs(folder).dataframe()`."""
    return Runs(folder).dataframe()


def folder_of(folder: str | os.PathLike[str]) -> Path:
    """Return an absolute path. Raises UserError for what is not a path."""
    if not isinstance(folder, str | os.PathLike):
        how = "; write * before a list of folders" if isinstance(folder, list | tuple) else ""
        raise UserError(f"{type(folder).__name__} is not allowed: a folder must be a string, a path or a run{how}")
    return Path(folder).absolute()


def read_rows_of(folders: Iterable[Path]) -> list[Row]:
    """Return the rows of the runs in the folders, with a warning for each file that is not a record."""
    from microgpt.reports.records import read_rows

    collected = read_rows(folders)
    for path, reason in collected.skipped:
        warnings.warn(f"skipped {path}: {reason}", stacklevel=3)
    return collected.rows


def shown(path: Path) -> str:
    """Return the path as shown in messages: relative to the working directory if it is inside it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def engine_overrides(record: RunRecord) -> Iterator[str]:
    """Yield the overrides that choose a run's engine. A run of several processes is loaded in one process."""
    backend = record.config.get("backend")
    if record.mode is None or backend is None:
        return
    yield f"mode={record.mode}"
    yield f"backend={backend['name']}"
    for key, value in backend.items():
        if key != "name" and value is not None:
            yield f"backend.{key}={str(value).lower()}"


def key_facts(record: RunRecord) -> Iterator[tuple[str, Any]]:
    """Yield the names and values that summarize a run."""
    yield "status", record.status
    yield "model", (record.config.get("model") or {}).get("name")
    yield "style", record.style
    yield "seed", record.seed
    if (metrics := record.metrics) is not None:
        yield "parameters", f"{metrics.parameter_count:,}"
        yield "steps", f"{metrics.steps:,}"
        for name in ("mean_loss_last_n", "val_loss"):
            if (loss := getattr(metrics, name)) is not None:
                yield name, f"{loss:.4f}"
    if record.error:
        yield "error", record.error.splitlines()[-1]
