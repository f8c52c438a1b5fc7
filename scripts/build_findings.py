"""Repeat the experiments of docs/findings.md, and write their figures and plots into the page.

    python scripts/build_findings.py                     # all experiments; writes the page, findings.json and the plots
    python scripts/build_findings.py --check             # compares the stored figures with new ones; writes nothing
    python scripts/build_findings.py --only scaling      # one experiment; the others keep their figures
    python scripts/build_findings.py --folder findings   # where the runs are kept: the same command resumes there

Every experiment is a command of microgpt, run once for each text. Its figures are those of the report: estimates with
95 % intervals, of which those of one experiment and text hold together. `--check` reports a figure whose new interval
does not meet the stored one; exit code 1 if there is any.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from findings_studies import ALL_CHANGES, STUDIES, Figure, Figures

from microgpt.errors import MicrogptError
from microgpt.reports.analyses import analysed
from microgpt.reports.curves import read_curve
from microgpt.reports.plot_style import INK, line_style, new_axes, plot_style
from microgpt.reports.records import read_rows
from microgpt.reports.report import Analysis
from microgpt.reports.run_families import sweep_family

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, STORED, IMAGES = DOCS / "findings.md", DOCS / "findings.json", DOCS / "images"
BLOCK = re.compile(r"(<!-- findings: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
DPI = 110  # of the plots
ROW = 0.26  # inches
MOST_INTERACTIONS = 8
KINDS = (
    "Lower loss on all texts", "Higher loss on all texts", "Opposite on the texts", "Shown on one text only",
    "Shown on no text",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    figures: Figures
    analysis: Analysis


def run(name: str, text: str, folder: Path) -> Result:
    """Run a study on a text in a folder of its own, or resume it there; return what its report finds."""
    study = STUDIES[name]
    place = folder / f"{file_name(text)}_{study.runs_of or name}"
    place.mkdir(parents=True, exist_ok=True)
    harness.say(f"--- {shown(study.command(text))}")
    command = [sys.executable, "-m", "microgpt", *study.command(text)]
    code = subprocess.run(command, cwd=place, stdout=sys.stderr, check=False).returncode
    if code not in (0, 1):  # 1: runs have diverged, which is a result too
        raise MicrogptError(f"{shown(study.command(text))} ended with exit code {code}")
    rows = [row for row in read_rows([place / "outputs"]).rows if row.job]
    found = analysed(sweep_family(rows), lambda row: read_curve(row.folder, row.steps_per_sec)).get(study.analysis)
    if found is None:
        raise MicrogptError(f"the runs in {place} have no figures of {study.analysis}")
    return Result(study.figures(found.data), found)


def shown(command: Sequence[str]) -> str:
    """Return a command as it is typed in a shell."""
    quoted = (f'"{one}"' if re.search(r"[^\w=./,+-]", one) else one for one in command)
    return f"python -m microgpt {' '.join(quoted)}"


def file_name(text: str) -> str:
    return re.sub(r"\W+", "-", text).lower()


def blocks(name: str, stored: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and the Markdown of each block of a study."""
    study = STUDIES[name]
    texts = figures_by_text(stored[name])
    commands = "\n".join(shown(study.command(text)) for text in study.texts)
    yield f"{name}-commands", f"<!-- not run -->\n```sh\n{commands}\n```"
    labels = list(dict.fromkeys(label for found in texts.values() for label in found))
    mains, interactions = [one for one in labels if " × " not in one], [one for one in labels if " × " in one]
    yield f"{name}-table", f"{table(mains, texts, study.are_differences)}"
    if not study.are_differences:
        remarks = [
            f"- {text}: {line}" for text, lines in stored.get("sentences", {}).get(name, {}).items() for line in lines
        ]
        yield f"{name}-sentences", "\n".join(remarks)
    else:
        yield f"{name}-sentences", f"{sentences(mains, texts)}"
    if interactions:
        yield f"{name}-interactions", f"{table(largest(interactions, texts), texts, study.are_differences)}"


def figures_by_text(stored: Mapping[str, Any]) -> dict[str, Figures]:
    return {text: {label: Figure(*one) for label, one in found.items()} for text, found in stored.items()}


def forest(texts: Mapping[str, Figures]) -> "MatplotlibFigure":
    """Return a plot with a row for each effect and a bar for each text; of interactions, the largest."""
    labels = list(dict.fromkeys(label for found in texts.values() for label in found))
    interactions = [one for one in labels if " × " in one]
    rows = [one for one in labels if one not in interactions] + largest(interactions, texts)
    with plot_style():
        figure, axes = new_axes(0.9 + ROW * len(rows), left=2.4, bottom=0.7)
        axes.axvline(0, color=INK, linewidth=1)
        for number, (text, found) in enumerate(texts.items()):
            places = [
                (place + 0.26 * (number - 0.5), found[label]) for place, label in enumerate(rows) if label in found
            ]
            style = line_style(number)
            for place, one in places:
                axes.plot([one.low, one.high], [place, place], color=style["color"], linewidth=1.6)
            axes.plot(
                [one.estimate for _, one in places], [place for place, _ in places], linestyle="none",
                marker=style["marker"], color=style["color"], label=text,
            )  # fmt: skip
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [row.replace("model.", "") for row in rows], fontsize=7.5)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("effect on val_loss (nats per token)")
        figure.legend(loc="lower center", ncols=len(texts))
    return figure


def save(figure: "MatplotlibFigure", picture: Path) -> None:
    with plot_style():
        figure.savefig(picture, dpi=DPI, facecolor="white", metadata={"Software": None})


def largest(labels: Sequence[str], texts: Mapping[str, Figures]) -> list[str]:
    """Return the labels whose intervals are farthest from zero, of those that are shown on a text."""

    def distance(label: str) -> float:
        return max(max(found[label].low, -found[label].high) for found in texts.values() if label in found)

    return [one for one in sorted(labels, key=distance, reverse=True) if distance(one) > 0][:MOST_INTERACTIONS]


def table(labels: Sequence[str], texts: Mapping[str, Figures], signed: bool) -> str:
    """Return a row for each label; intervals that contain no zero are bold in a table of differences."""

    def cell(found: Figure | None) -> str:
        text = "" if found is None else found.written(signed)
        return f"**{text}**" if found and signed and found.is_shown else text

    rows = [[label, *(cell(found.get(label)) for found in texts.values())] for label in labels]
    return harness.table(["", *texts], rows)


def sentences(labels: Sequence[str], texts: Mapping[str, Figures]) -> str:
    """Say on which effects the texts agree, and how large those may be that are shown on none.

    An effect that the report of one text has for each level of another key cannot be compared.
    """
    kinds: dict[str, list[str]] = {}
    for label in (label for label in labels if all(label in figures for figures in texts.values())):
        found = [figures[label] for figures in texts.values()]
        signs = [one.low > 0 for one in found if one.is_shown]
        if label.endswith(ALL_CHANGES):
            continue
        if not signs:
            kind = "Shown on no text"
        elif len(set(signs)) > 1:
            kind = "Opposite on the texts"
        elif len(signs) < len(found):
            kind = "Shown on one text only"
        else:
            kind = f"{'Higher' if signs[0] else 'Lower'} loss on all texts"
        kinds.setdefault(kind, []).append(label)
    lines = [f"- {kind}: {'; '.join(kinds[kind])}." for kind in KINDS if kind in kinds]
    none = kinds.get("Shown on no text", [])
    if none:
        bounds = {text: max(max(-found[one].low, found[one].high) for one in none) for text, found in texts.items()}
        named = " or ".join(f"{bound:.3f} on {text}" for text, bound in bounds.items())
        lines.append(f"- No effect of those is larger than {named}.")
    return "\n".join(lines)


def write(results: Mapping[str, Mapping[str, Result]], stored: dict[str, Any]) -> None:
    """Write the figures, the plots and the page."""
    for name, found in results.items():
        stored[name] = {
            text: {label: [one.estimate, one.low, one.high] for label, one in result.figures.items()}
            for text, result in found.items()
        }
        if STUDIES[name].are_differences:
            continue
        lines = {text: [*result.analysis.findings, *result.analysis.last] for text, result in found.items()}
        stored.setdefault("sentences", {})[name] = lines
        for text, result in found.items():
            if result.analysis.plots:
                picture = IMAGES / f"findings-{name}-{file_name(text)}.png"
                save(result.analysis.plots[0].figure, picture)
    STORED.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    for name, study in STUDIES.items():
        if study.is_drawn and name in stored:
            save(forest(figures_by_text(stored[name])), IMAGES / f"findings-{name}.png")
    PAGE.write_text(with_blocks(PAGE.read_text(), stored))


def with_blocks(page: str, stored: Mapping[str, Any]) -> str:
    """Return the page with the blocks that follow from the stored figures."""
    texts = {key: text for name in STUDIES if name in stored for key, text in blocks(name, stored)}
    return BLOCK.sub(lambda one: f"{one[1]}\n{texts.get(one[2], '')}\n\n{one[3]}", page)


def differences(results: Mapping[str, Mapping[str, Result]], stored: Mapping[str, Any]) -> list[str]:
    """Return a line for each stored figure that is missing now or whose interval does not meet the new one."""
    lines = []
    for name, found in results.items():
        for text, result in found.items():
            for label, numbers in stored[name][text].items():
                old, new = Figure(*numbers), result.figures.get(label)
                if new is None or new.low > old.high or new.high < old.low:
                    is_now = new.written(False) if new else "nothing"
                    lines.append(f"{name}, {text}, {label}: {old.written(False)} was stored, {is_now} is found")
    return lines


def build(only: str | None, check: bool, folder: Path) -> int:
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    names = [only] if only else list(STUDIES)
    results = {name: {text: run(name, text, folder) for text in STUDIES[name].texts} for name in names}
    if not check:
        write(results, stored)
        return 0
    lines = differences(results, stored)
    count = sum(len(figures) for name in names for figures in stored[name].values())
    print("\n".join([*lines, f"{count - len(lines)} of {count} figures agree within their intervals"]))
    return 1 if lines else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the stored figures and write nothing")
    parser.add_argument("--only", choices=STUDIES, help="one experiment")
    parser.add_argument("--folder", type=Path, help="keep the runs here; without it a temporary folder")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (chosen.folder or Path(temporary)).resolve()
        return harness.finish(lambda: build(chosen.only, chosen.check, folder))


if __name__ == "__main__":
    sys.exit(main())
