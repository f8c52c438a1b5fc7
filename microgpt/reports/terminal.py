"""Text for the terminal: the newest runs, one line for each setting of a sweep, and ablations."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from microgpt.data.display import escaped
from microgpt.reports.factor_effects import Compared
from microgpt.reports.markdown import text_table
from microgpt.reports.paired_statistics import Interval
from microgpt.reports.provenance import remarks
from microgpt.reports.report import Bullets, Cells, Section, Table
from microgpt.reports.rows import Row, swept_keys
from microgpt.reports.run_families import Family, Variant
from microgpt.reports.settings import abbreviated, column_names, setting, written
from microgpt.reports.tables import cell, counted, from_best_cells, interval_cell, shortened
from microgpt.reports.tables import value_cell as column_cell

RUN_COLUMNS = ("variant", "model", "style", "steps", "seed", "val_loss", "mean_loss_last_n", "steps_per_sec", "status")
OF_EACH_RUN = ("seed", "val_loss", "mean_loss_last_n", "steps_per_sec")
LEFT_OUT_FIRST = ("steps_per_sec", "mean_loss_last_n", "tags", "variant")  # if the terminal is narrow
LEFT_OUT_OF_ABLATIONS = (
    "seeds needed", "effect size", "p", "mean_loss_last_n", "steps_per_sec", "median", "sd", "parameters",
)  # fmt: skip
SHORTEST = 12  # characters that remain of a shortened text
MOST_LINES = 40
MOST_SETTINGS = 12  # lines for a sweep over more than two keys
MOST_FINDINGS = 16
MOST_COLUMNS, PAGE_WIDTH = 5, 160  # of settings, and of output that has more of them and is not on a terminal
INTERVAL = "95 % interval of the difference"
SHORT = {INTERVAL: "(95 % interval)"}  # column -> its name on the terminal, after `from best`


def terminal_width() -> int | None:
    """Return the columns of the terminal; None if the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def runs_text(rows: Sequence[Row], width: int | None) -> str:
    """Return the newest runs as a table, with the values that all of them share above it."""
    newest = rows[-MOST_LINES:]
    keys = [key for key in swept_keys(newest) if key != "train.steps"]  # `steps` is a column
    columns = [*RUN_COLUMNS, *(["tags"] if any(row.tags for row in newest) else [])]
    table = [{column: escaped(column_cell(column, getattr(row, column))) for column in columns} for row in newest]
    same = [name for name in columns if name not in OF_EACH_RUN and len({row[name] for row in table}) == 1]
    same = same if len(newest) > 1 else []
    common = ", ".join(f"{name} {table[0][name]}" for name in same if table[0][name] != "-")
    settings = [{key: setting(row.recorded_settings, key) for key in keys} for row in newest]
    table = [{name: text for name, text in row.items() if name not in same} for row in table]
    runs = counted(len(rows), "run")
    title = f"{runs if len(newest) == len(rows) else f'the newest {len(newest)} of {runs}'}"
    return f"{filled(f'{title}, all with {common}:' if common else f'{title}:', width)}\n" + text_table(
        with_settings(table, settings, column_names(keys), width)
    )


def settings_text(family: Family, compared: Compared | None, width: int | None) -> str:
    """Return a line for each setting of a sweep, best first, with its difference from the best."""
    names = column_names(list(family.variants[0].settings))
    most = MOST_LINES if len(names) <= 2 else MOST_SETTINGS
    ranked = family.ranked[:most]
    runs, number = counted(len(family.rows), "completed run"), len(family.variants)
    heading = f"{family.key}: {runs} of {counted(number, 'setting')}; {family.metric}, best first"
    if not ranked:
        return heading
    best, summaries = ranked[0][0], {variant.name: found for variant, found in ranked}
    lines = [variant for variant, _ in ranked]
    lines = [*lines, *(variant for variant in family.variants if not variant.rows)][:most]
    trials = {variant.name: trial_of(variant) for variant in lines}
    counts = [name for name in ("failed", "unfinished") if any(getattr(variant, name) for variant in lines)]

    def table(is_narrow: bool) -> list[Cells]:
        found = []
        for variant in lines:
            summary, against = summaries.get(variant.name), from_best_cells(variant.name, compared)
            cells = {"seeds": str(summary.n if summary else 0), family.metric: cell(summary.mean if summary else None)}
            cells |= interval_cells(summary.interval if summary else None, is_narrow)
            if is_narrow:
                against.pop(INTERVAL, None)
            cells |= {SHORT.get(name, name): text for name, text in against.items()}
            cells |= {name: str(getattr(variant, name)) for name in counts}
            found.append(({"trial": trials[variant.name]} if any(trials.values()) else {}) | cells)
        return found

    parts = [heading + (f", the first {len(lines)} of which are listed" if len(lines) < number else "")]
    whole = with_settings(table(False), [variant.settings for variant in lines], names, None)
    width = PAGE_WIDTH if width is None and len(names) > MOST_COLUMNS else width
    if width is not None and table_width(whole) > width:
        parts.append(f"best: {words(best.settings, names)}; the others by what differs from it")
        whole = with_settings(table(True), [differences(variant, best) for variant in lines], names, width)
    parts += [text_table(whole), explanation(family, compared), *map(escaped, remarks(family.members))]
    return "\n".join(part if "\n" in part else filled(part, width) for part in parts if part)


def findings_text(section: Section, width: int | None) -> str:
    """Return the findings of a section, one sentence per line."""
    found = [item for block in section.blocks if isinstance(block, Bullets) for item in block.items]
    more = len(found) - MOST_FINDINGS
    rest = [f"- {more} more in the report"] if more > 0 else []
    return "\n".join(filled(escaped(line), width) for line in [*(f"- {item}" for item in found[:MOST_FINDINGS]), *rest])


def with_settings(
    table: Sequence[Cells], settings: Sequence[Mapping[str, Any]], names: Mapping[str, str], width: int | None
) -> list[Cells]:
    """Return a table with a column for each setting first, or one column for all settings if it is too wide."""
    whole = [
        {names[key]: value_cell(value) for key, value in own.items()} | row
        for own, row in zip(settings, table, strict=True)
    ]
    if width is None or (len({len(row) for row in whole}) == 1 and table_width(whole) <= width):
        return whole
    for column in LEFT_OUT_FIRST:
        if table_width(table) + len("settings ") > width / 2:
            table = without(table, column)
    room = max(width - table_width(table) - 1, len("settings"))
    texts = [words(own, names) or "-" for own in settings]
    return [{"settings": shortened(text, room)} | row for text, row in zip(texts, table, strict=True)]


def filled(text: str, width: int | None) -> str:
    return text if width is None else fill(text, width)


def trial_of(variant: Variant) -> str:
    """Return the number of a setting's trial in the study of an optimizing sweeper; empty for other sweeps."""
    return next((str(row.trial) for row in variant.rows.values() if row.trial is not None), "")


def ablations_text(sections: Sequence[Section], width: int | None) -> str:
    """Return the titles and tables of ablations, separated by blank lines."""
    parts = []
    for section in sections:
        parts.append(filled(f"ablation: {section.title}", width))
        for table in section.blocks:
            if isinstance(table, Table):
                heading = f"{table.title}:\n" if table.title else ""
                text = f"{text_table(narrowed(table.rows, width))}\n" if table.rows else ""
                parts.append(f"{heading}{text}{filled(table.note, width)}")
    return "\n\n".join(parts)


def narrowed(table: Sequence[Cells], width: int | None) -> Sequence[Cells]:
    """Return a table without the least important columns, and with a shorter last one, if the terminal is narrow."""
    if width is None:
        return table
    for column in LEFT_OUT_OF_ABLATIONS:
        if table_width(table) > width:
            table = without(table, column)
    last = list(table[0])[-1]
    if table_width([{**row, last: row[last][:SHORTEST]} for row in table]) > width:
        table = without(table, "95 % interval")
        table = [{"p (adj.)" if name == "p (adjusted)" else name: text for name, text in row.items()} for row in table]
    room = max(width - table_width([{**row, last: ""} for row in table]) + len(last), SHORTEST)
    return [{**row, last: shortened(row[last], room)} for row in table]


def without(table: Sequence[Cells], column: str) -> list[Cells]:
    return [{name: text for name, text in row.items() if name != column} for row in table]


def interval_cells(interval: Interval | None, is_narrow: bool) -> Cells:
    if is_narrow:
        return {"± 95 %": cell(None if interval is None else (interval.high - interval.low) / 2)}
    return {"95 % interval": interval_cell(interval, "{:.4f}")}


def words(settings: Mapping[str, Any], names: Mapping[str, str]) -> str:
    return " ".join(f"{names[key]}={value_cell(value)}" for key, value in settings.items())


def explanation(family: Family, compared: Compared | None) -> str:
    against = compared.from_best.values() if compared else ()
    tested = [found for found in against if found.p is not None]
    parts = [family.obstacle] if family.obstacle else []
    if tested:
        way = "seed by seed" if all(found.paired for found in tested) else "seed by seed where seeds are shared"
        number = max(found.comparisons for found in tested)
        together = f"; their intervals are simultaneous for {number} comparisons" if number > 1 else ""
        parts.append(f"Differences are taken {way}{together}. differs: the interval does not contain zero.")
    elif against:
        parts.append("One seed of each: a difference cannot be told from chance.")
    return " ".join(parts)


def differences(variant: Variant, best: Variant) -> dict[str, Any]:
    return {key: value for key, value in variant.settings.items() if value != best.settings[key]}


def value_cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escaped(abbreviated(written(value)))


def table_width(table: Sequence[Cells]) -> int:
    return len(text_table(table).splitlines()[0])
