"""Displays runs and models in notebooks, as HTML with the loss curve as inline SVG, samples and key facts.

All text is escaped, nothing is loaded, and all colours are set, so that light and dark notebooks show the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import count
from typing import TYPE_CHECKING, Any

from microgpt.api.run import Run, Runs, key_facts, shown
from microgpt.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from microgpt.api.model import Model
    from microgpt.reports.rows import Row

MOST_SAMPLES, LONGEST_SAMPLE = 10, 200
MOST_ROWS = 20
NUMBERS = count(1)  # make the ids of a notebook's plots unique
CARD = "background: #fff; color: #1a1a1a; padding: 0.5em 0.8em; font: 13px/1.45 sans-serif; overflow-x: auto"
COLUMN = "display: inline-block; vertical-align: top; margin: 0 1.5em 0.5em 0"
CELL = "padding: 1px 12px 1px 0; text-align: left; color: #1a1a1a; background: #fff; border: 0"


def run_html(run: Run) -> str:
    record = run.record
    return card(f"Run {shown(run.folder)}", facts(key_facts(record)), curve(run.history), sample_list(record.samples))


def model_html(model: Model) -> str:
    """Show a model and, if its checkpoint is in the folder of a run, the loss curve and the samples of the run."""
    spec = model.config
    known = {
        "kind": spec.kind,
        "parameters": f"{spec.parameter_count():,}",
        **{key: getattr(spec, key) for key in ("n_embd", "n_head", "n_layer", "block_size", "vocab_size")},
        "characters": "".join(model.tokenizer.chars),
        "step": model.step,
        "engine": f"{model.info.backend}, {model.info.dtype}, {model.info.device}",
    }
    parts = [facts(known.items())]
    if model.path.parent.name == "checkpoint":
        try:
            run = Run(model.path.parents[1])
            parts += [curve(run.history), sample_list(run.samples)]
        except UserError:  # the run has no readable record
            pass
    return card(f"Model {shown(model.path)}", *parts)


def runs_html(runs: Runs) -> str:
    """Show the first runs with the keys in which they differ, the variants' mean curves, and the best run's samples."""
    from microgpt.api.differences import differing, settings
    from microgpt.reports.settings import abbreviated, written
    from microgpt.reports.tables import cell

    rows = runs.rows
    keys = [key for key in differing(rows) if key != "seed"]
    columns = ("seed", "mean_loss_last_n", "val_loss", "status")
    cells = [
        [*(abbreviated(written(own[key])) for key in keys), *(cell(getattr(row, one)) for one in columns)]
        for row, own in zip(rows[:MOST_ROWS], settings(rows[:MOST_ROWS]), strict=True)
    ]
    more = f"<div>and {len(rows) - MOST_ROWS} more</div>" if len(rows) > MOST_ROWS else ""
    title = f"Runs {' '.join(map(shown, runs.folders))}: {runs.counts()}"
    if not rows:
        return card(title)
    completed = [row for row in rows if row.is_completed and row.val_loss is not None]
    best = min(completed, key=lambda row: row.val_loss or 0.0, default=None)
    samples = (
        sample_list(best.samples, f"samples of the run with the lowest val_loss, {best.val_loss:.4f}") if best else ""
    )
    return card(title, table(cells, header=[*keys, *columns]) + more, mean_curves(rows), samples)


def card(title: str, *parts: str) -> str:
    columns = "".join(f'<div style="{COLUMN}">{part}</div>' for part in parts if part)
    return f'<div style="{CARD}"><b>{escape(title)}</b><div style="margin-top: 0.4em">{columns}</div></div>'


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    return table([[name, str(value)] for name, value in pairs])


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> str:
    lines = [(header, "th"), *((row, "td") for row in rows)] if header else [(row, "td") for row in rows]
    content = "".join(
        f'<tr style="background: #fff">{"".join(f"<{tag} style={CELL!r}>{escape(one)}</{tag}>" for one in row)}</tr>'
        for row, tag in lines
    )
    return f'<table style="border-collapse: collapse; font: inherit">{content}</table>'


def sample_list(samples: Sequence[str], title: str = "samples") -> str:
    if not samples:
        return ""
    shown = [sample if len(sample) <= LONGEST_SAMPLE else f"{sample[:LONGEST_SAMPLE]}…" for sample in samples]
    lines = "".join(f"<div>{escape(sample)}</div>" for sample in shown[:MOST_SAMPLES])
    more = f'<div style="color: #666">and {len(samples) - MOST_SAMPLES} more</div>' * (len(samples) > MOST_SAMPLES)
    return f'<div style="color: #666">{title}</div><div style="font-family: monospace">{lines}</div>{more}'


def curve(history: pd.DataFrame) -> str:
    """Return a plot of a history's losses, or an empty string if it has fewer than two points."""
    lines = dict(losses(history))
    return plot(history_figure(lines)) if lines else ""


def mean_curves(rows: Sequence[Row]) -> str:
    """Return a plot of the variants' validation losses: means over the seeds with 95 % intervals."""
    from microgpt.reports.charts import curves
    from microgpt.reports.curves import read_curve
    from microgpt.reports.plots import MOST_CURVES, bands_of, select
    from microgpt.reports.run_families import family_of

    variants = select(family_of(rows), MOST_CURVES).variants
    histories = {one.name: [read_curve(row.folder) for row in one.rows.values()] for one in variants}
    bands = {name: band for name, band in bands_of(histories, "val_loss").items() if len(band.x) > 1}
    return plot(curves(bands, x_label="step")) if bands else ""


def plot(figure: Figure) -> str:
    """Return a figure as SVG, 420 pixels wide."""
    from microgpt.reports.plot_style import VARIABLES, svg

    colours = "; ".join(f"{variable[4:-1]}: {colour}" for colour, variable in VARIABLES.items())
    return f'<div style="width: 420px; {colours}">{svg(figure, f"run{next(NUMBERS)}-")}</div>'


def losses(history: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for name in ("loss", "val_loss"):
        known = history.dropna(subset=[name])
        if len(known) > 1:
            yield name, known


def history_figure(lines: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the batch loss of the logged steps, with the validation loss on top."""
    from microgpt.reports.plot_style import COLOURS, FAINT, new_axes, plot_style

    looks: dict[str, dict[str, Any]] = {
        "loss": {"color": FAINT, "linewidth": 0.8, "label": "loss of the step's batch"},
        "val_loss": {"color": COLOURS[0], "marker": "o", "label": "validation loss"},
    }
    with plot_style():
        figure, axes = new_axes(2.4)
        for name, known in lines.items():
            axes.plot(known["step"], known[name], **looks[name])
        axes.set_xlabel("step")
        axes.set_ylabel("nats per token")
        axes.legend()
    return figure
