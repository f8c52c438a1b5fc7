"""Provenance of a family's runs: common settings, commands, code, machines, and the runs that failed.

Each fact is stated once, with the number of runs that it holds for.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from microgpt.reports.report import Block, Heading, Paragraph, Table
from microgpt.reports.rows import Row
from microgpt.reports.run_families import Family
from microgpt.reports.settings import DATA, exact, grouped, is_default, short, written
from microgpt.reports.tables import counted, shortened

LONGEST_SETTING = 80  # characters
MOST_COMMANDS = 10
MOST_FAILURES = 12  # rows of the table of failures
LOSS_AT_STEP = re.compile(r"(?:the )?(?:validation )?loss (?:after|of) step (\d+) is (-?\w+)(?: \(lr \S+\))?")


def common_settings(family: Family) -> list[str]:
    """Return as overrides the settings that all variants have in common and that are not the schema's default."""
    first, *others = [variant.first.settings for variant in family.variants if variant.rows]
    common = [key for key in first if all(exact(settings, key) == exact(first, key) for settings in others)]
    chosen = [key for key in common if key != DATA and not is_default(first, key)]
    return [shortened(f"{short(key)}={written(first[key])}", LONGEST_SETTING) for key in chosen]


def frequencies(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Return each text that is not empty with its frequency, the most frequent first."""
    return Counter(filter(None, texts)).most_common()


def frequency_table(column: str, texts: Iterable[str]) -> Table:
    rows = [{"runs": str(runs), column: text} for text, runs in frequencies(texts)]
    return Table("", rows, is_text=True)


def commands(rows: Sequence[Row]) -> list[Block]:
    found: list[Block] = [Heading("How to reproduce")]
    for command, runs in frequencies(row.command for row in rows)[:MOST_COMMANDS]:
        found += [Paragraph(counted(runs, "run"), "caption"), Paragraph(command, "command")]
    return [*found, Paragraph("The overrides and the whole configuration of each run are in its run.json.", "caption")]


def code_and_environment(rows: Sequence[Row]) -> list[Block]:
    return [
        Heading("Code and environment"),
        frequency_table("commit", map(git_state, rows)),
        frequency_table("environment", (row.environment for row in rows)),
    ]


def git_state(row: Row) -> str:
    if row.git_commit is None:
        return "unknown commit"
    return f"{row.git_commit}{', with uncommitted changes' if row.git_dirty else ''}"


def git_warnings(rows: Sequence[Row]) -> list[str]:
    """Return sentences about what the state of the code means for the runs."""
    states = {git_state(row) for row in rows}
    found = []
    if len(states) > 1:
        found.append(f"The runs were made with {len(states)} different versions of the code.")
    dirty = sum(row.git_dirty is True for row in rows)
    if dirty:
        found.append(
            f"{dirty} of {len(rows)} runs were made with uncommitted changes: their commit does not reproduce them."
        )
    if any(row.git_commit is None for row in rows):
        found.append("Runs of an installed package have no commit; the version is listed with the environment.")
    return found


def leg_warnings(rows: Sequence[Row]) -> list[str]:
    """Return a sentence about runs whose validation documents may have been trained on in an earlier leg."""
    other = sum(row.leg_other_data is not None for row in rows)
    if not other:
        return []
    return [
        f"{other} of {len(rows)} runs continue a checkpoint of other data or of another split: their validation loss "
        "may include documents that the model was trained on."
    ]


def remarks(rows: Sequence[Row]) -> list[str]:
    """Return the users' own tags and notes, each once."""
    found = [("Tags", row.tags) for row in rows] + [("Notes", row.notes) for row in rows]
    return [f"{kind}: {text}" for kind, text in dict.fromkeys(found) if text]


def failures(family: Family) -> list[Table]:
    """Return a table of runs that are not completed, by variant and kind of cause; none for no runs."""
    groups = grouped(
        family.missing, lambda row: (family.names[row.fingerprint], str(row.status), kind_of_cause(reason(row)))
    )
    found = [
        {"variant": name, "status": status, "runs": str(len(runs)), "reason": cause_of(runs), "first run": runs[0].path}
        for (name, status, _), runs in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    rest = len(found) - MOST_FAILURES
    note = f"{counted(rest, 'more reason')} left out." if rest > 0 else ""
    return [Table("Not completed", found[:MOST_FAILURES], note, is_text=True)] if found else []


def kind_of_cause(text: str) -> str:
    """Return what is the same in the reasons of runs that failed alike: losses at any step, other text as it is."""
    return LOSS_AT_STEP.sub("loss", text).partition(";")[0] if LOSS_AT_STEP.search(text) else text


def cause_of(rows: Sequence[Row]) -> str:
    """Return the reason of runs that failed alike; of losses the values, and the first and the last step."""
    found = [LOSS_AT_STEP.search(reason(row)) for row in rows]
    losses = [one for one in found if one]
    if len(losses) < len(rows) or len(rows) == 1:
        return reason(rows[0]) or "-"
    steps = [int(one[1]) for one in losses]
    values = " or ".join(dict.fromkeys(one[2] for one in losses))
    where = f"between steps {min(steps)} and {max(steps)}" if min(steps) < max(steps) else f"at step {steps[0]}"
    advice = reason(rows[0]).partition("; ")[2]
    return f"loss {values} {where}{f'; {advice}' if advice else ''}"


def reason(row: Row) -> str:
    """Return why a run failed: the last line of its error, without a clause that names the run's own folder.

    Runs that failed alike have the same reason.
    """
    lines = str(row.error or "").strip().splitlines()
    clauses = lines[-1].strip().split("; ") if lines else []
    return "; ".join(clause for clause in clauses if f"{row.run_id}/" not in clause) or "".join(clauses)
