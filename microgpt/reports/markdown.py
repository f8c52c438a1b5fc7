"""The ablation: tied or untied head, with or without the input norm, over everything else equal.

Runs are compared only with runs that differ from them in nothing but the two toggles and the seed (families.py). Makes
the tables and the words; what the numbers show is decided in statistics.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from microgpt.atomic import write_atomically
from microgpt.reports.budgets import at_equal_parameters, at_equal_steps, at_equal_time
from microgpt.reports.families import ablations
from microgpt.reports.records import Row, text_table, write_table
from microgpt.reports.tables import Line, budget_lines, comparison_lines, effect_lines, explanation, variant_lines
from microgpt.reports.variants import Family, comparisons, effects

Plots = Mapping[str, Mapping[str, Path]]  # comparison key -> title -> file, relative to the .md


def write_ablation(rows: list[Row], stem: Path, plots: Plots | None = None) -> list[Path]:
    """Write the ablation's tables; where there is none, remove what an earlier collection of other runs wrote."""
    found = ablations(rows)
    if not found:
        for ending in (".csv", ".jsonl", ".md"):
            Path(f"{stem}{ending}").unlink(missing_ok=True)
        return []
    flat = [
        move_last({"comparison": family.key, **row}, "comparison", "config") for family in found for row in family.rows
    ]
    markdown = Path(f"{stem}.md")
    write_atomically(markdown, ablation_markdown(found, plots or {}))
    return [*write_table(flat, stem), markdown]


def move_last(row: Row, *keys: str) -> Row:
    return {key: value for key, value in row.items() if key not in keys} | {key: row[key] for key in keys}


@dataclass(frozen=True)
class Section:
    """A table with its heading and what is said below it."""

    heading: str
    lines: list[Line]
    note: str


def sections(family: Family) -> list[Section]:
    """What is told of an ablation, in order: the variants, both effects and the interaction, all pairs, equal time."""
    first = Section("", variant_lines(family), f"Ranked by {family.figure}, best first. {caveat(family)}")
    if all(found.n == 1 for _, found in family.ranked):
        return [first]
    contrasts, compared = effects(family), comparisons(family)
    found = [first]
    if contrasts is not None and family.factors is not None:
        note = (
            "Contrasts seed by seed, over the seeds that all four variants have. The interaction is the effect of the "
            "first toggle where the second is on, minus that where it is off."
        )
        found.append(Section("Main effects and interaction", effect_lines(contrasts, family.factors), note))
    note = f"Mean of a - b: below zero, a is better. {explanation([one.difference for one in compared])}"
    found.append(Section("Differences between variants", comparison_lines(compared), note))
    time, steps, parameters = at_equal_time(family), at_equal_steps(family), at_equal_parameters(family)
    note = f"{time.sentence} {steps.sentence} {parameters.sentence}"
    return [*found, Section("At equal time, steps and parameters", budget_lines(time), note)]


def caveat(family: Family) -> str:
    """What the tables do not show."""
    commits = {(row["git_commit"], row["git_dirty"]) for row in family.rows}
    mixed = "" if len(commits) == 1 else " The runs are of different states of the code."
    unfinished = sum(variant.unfinished for variant in family.variants)
    missing = f" Runs that are not finished: {unfinished}." if unfinished else ""
    return seeds_caveat(family) + mixed + missing


def seeds_caveat(family: Family) -> str:
    seeds = [set(variant.rows) for variant in family.variants]
    if any(own != seeds[0] for own in seeds):
        return (
            "The variants were not run with the same seeds: a comparison leaves out the seeds that one of its variants "
            "lacks, and says how many."
        )
    count = len(seeds[0])
    if count == 1:
        return "One seed: a difference between variants cannot be told from chance. Add seeds, as in `seed=range(8)`."
    return f"All over the same {count} seeds; sd and intervals are over seeds."


def subject(family: Family) -> str:
    row = family.rows[0]
    config = row["config"]
    sizes = ", ".join(
        f"{key} {config['model'][key]}" for key in ("n_embd", "n_head", "n_layer", "block_size") if config["model"][key]
    )
    return (
        f"model {row['model']} ({sizes}), data {row['data']}, style {row['style']}, {row['steps']} steps of batch "
        f"{config['train']['batch_size']}, {config['optim']['name']} lr {config['optim']['lr']}, "
        f"schedule {config['schedule']['name']}, mode {row['mode']}"
    )


def ablation_markdown(found: list[Family], plots: Plots) -> str:
    parts = ["# Ablation: tie_lm_head x input_rmsnorm\n"]
    for family in found:
        parts.append(f"## {subject(family)} (comparison {family.key})\n")
        for section in sections(family):
            parts += [f"### {section.heading}\n"] if section.heading else []
            parts += [markdown_table(section.lines)] if section.lines else []
            parts.append(f"{section.note}\n")
        parts += [f"![{title}]({path.as_posix()})\n" for title, path in plots.get(family.key, {}).items()]
    return "\n".join(parts)


def markdown_table(lines: list[Line]) -> str:
    header = list(lines[0])
    table = [header, ["---"] * len(header), *([line[name] for name in header] for line in lines)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table) + "\n"


def ablation_text(rows: list[Row]) -> str:
    """The ablation for a terminal; empty where it is not whole."""
    parts = []
    for family in ablations(rows):
        parts.append(f"ablation: {subject(family)}")
        for section in sections(family):
            heading = f"{section.heading}:\n" if section.heading else ""
            table = f"{text_table(section.lines)}\n" if section.lines else ""
            parts.append(f"{heading}{table}{section.note}")
    return "\n\n".join(parts)
