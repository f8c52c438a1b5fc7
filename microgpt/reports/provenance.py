"""Where figures come from: what was set, the commands, the machines, the state of the code, and what did not end well.

Knows rows and details (rows.py); says each thing once, with the number of runs that it holds for.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from microgpt.reports.records import Detail, Row
from microgpt.reports.settings import DATA, exact, schema_defaults, settings_of, short, written

LONG_SETTING = 80  # characters


@dataclass(frozen=True)
class Counted:
    """A thing that several runs share."""

    text: str
    runs: int


@dataclass(frozen=True)
class Failure:
    """Runs that ended with one sentence."""

    status: str
    sentence: str
    runs: int
    first: str  # the folder of the first of them


def common_settings(rows: Sequence[Row]) -> list[str]:
    """What all have in common and what is not the schema's default, as the command line would set it.

    `rows` has one run of each variant.
    """
    found, defaults = [settings_of(row) for row in rows], schema_defaults()
    first = found[0]
    common = [key for key in first if key != DATA and len({exact(settings, key) for settings in found}) == 1]
    chosen = [key for key in common if key not in defaults or exact(first, key) != exact(defaults, key)]
    return [cut(f"{short(key)}={written(first[key])}") for key in chosen]


def cut(text: str) -> str:
    return text if len(text) <= LONG_SETTING else f"{text[: LONG_SETTING - 1]}…"


def grouped(texts: Iterable[str]) -> list[Counted]:
    """Each text once, the most frequent first; of equally frequent ones the first."""
    return [Counted(text, runs) for text, runs in Counter(filter(None, texts)).most_common()]


def commands(details: Iterable[Detail]) -> list[Counted]:
    return grouped(detail.command for detail in details)


def environments(details: Iterable[Detail]) -> list[Counted]:
    return grouped(detail.environment for detail in details)


def git_states(rows: Sequence[Row]) -> tuple[list[Counted], list[str]]:
    """The states of the code that ran, and what is to be said about them."""
    states = grouped(git_state(row) for row in rows)
    warnings = []
    if len(states) > 1:
        warnings.append(f"The runs are of {len(states)} different states of the code.")
    dirty = sum(row["git_dirty"] is True for row in rows)
    if dirty:
        warnings.append(
            f"{dirty} of {len(rows)} runs were made with uncommitted changes: their commit does not reproduce them."
        )
    if any(row["git_commit"] is None for row in rows):
        warnings.append("Runs of an installed package have no commit; its version stands with the environment.")
    return states, warnings


def git_state(row: Row) -> str:
    if row["git_commit"] is None:
        return "no commit known"
    return f"{row['git_commit']}{', with uncommitted changes' if row['git_dirty'] else ''}"


def failures(rows: Sequence[Row]) -> list[Failure]:
    """Runs that are not completed, by how they ended and the last line of what they said."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["status"] != "completed":
            groups.setdefault((str(row["status"]), sentence_of(row)), []).append(row)
    return [
        Failure(status, sentence, len(runs), runs[0]["path"])
        for (status, sentence), runs in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def sentence_of(row: Row) -> str:
    """An explained failure is a sentence; of a bug's traceback the last line says what it was.

    A clause that names the run's own folder is left out: runs that failed alike say the same.
    """
    lines = str(row["error"] or "").strip().splitlines()
    clauses = lines[-1].strip().split("; ") if lines else []
    return "; ".join(clause for clause in clauses if f"{row['run_id']}/" not in clause) or "".join(clauses)


def counted(number: int, what: str) -> str:
    """`1 run`, `256 runs`."""
    return f"{number:,} {what}{'s' * (number != 1)}"
