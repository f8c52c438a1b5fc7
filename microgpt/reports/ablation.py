"""The section of an ablation, for Markdown and the terminal: tied or untied head, with or without the input norm."""

from collections.abc import Callable, Sequence

from microgpt.reports.budgets import at_equal_parameters, at_equal_steps, at_equal_time
from microgpt.reports.comparisons import Comparison, Effects
from microgpt.reports.curves import Curve
from microgpt.reports.families import Family
from microgpt.reports.records import Row
from microgpt.reports.report import Plot, Plots, Section, Table
from microgpt.reports.tables import budget_rows, comparison_rows, effect_rows, explanation, variant_rows


def ablation_section(
    family: Family,
    compared: Sequence[Comparison],
    contrasts: Effects | None,
    plots: Sequence[Plot],
    read: Callable[[Row], Curve],
) -> Section:
    """Return in order the variants, the effects, all pairs, the loss at equal time, and the plots."""
    tables = [Table("", variant_rows(family), f"Ranked by {family.metric}, best first. {caveat(family)}")]
    if any(found.n > 1 for _, found in family.ranked):
        tables += statistics_tables(family, compared, contrasts, read)
    return Section(subject(family), [*tables, Plots(plots)], comparison=family.key)


def statistics_tables(
    family: Family, compared: Sequence[Comparison], contrasts: Effects | None, read: Callable[[Row], Curve]
) -> list[Table]:
    found = []
    if contrasts is not None:
        note = (
            "Contrasts seed by seed, over the seeds that all four variants have. The interaction is the effect of the "
            "first toggle where the second is on, minus that where it is off."
        )
        found.append(Table("Main effects and interaction", effect_rows(contrasts), note))
    note = f"Mean of a - b: below zero, a is better. {explanation([one.difference for one in compared])}"
    found.append(Table("Differences between variants", comparison_rows(compared), note))
    time, steps, parameters = at_equal_time(family, read), at_equal_steps(family, read), at_equal_parameters(family)
    note = f"{time.sentence} {steps.sentence} {parameters.sentence}"
    return [*found, Table("At equal time, steps and parameters", budget_rows(time), note)]


def subject(family: Family) -> str:
    """Return what was trained: model, data, style, steps, optimizer, schedule and mode."""
    row = family.rows[0]
    known = [(key, row.setting("model", key)) for key in ("n_embd", "n_head", "n_layer", "block_size")]
    sizes = ", ".join(f"{key} {value}" for key, value in known if value)
    return (
        f"model {row.model} ({sizes}), data {row.data}, style {row.style}, {row.steps} steps of batch "
        f"{row.setting('train', 'batch_size')}, {row.setting('optim', 'name')} lr {row.setting('optim', 'lr')}, "
        f"schedule {row.setting('schedule', 'name')}, mode {row.mode}"
    )


def caveat(family: Family) -> str:
    """Return what the tables do not show: seeds that are missing, different states of the code, unfinished runs."""
    commits = {(row.git_commit, row.git_dirty) for row in family.rows}
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
