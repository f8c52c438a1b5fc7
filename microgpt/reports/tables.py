"""The statistics of a family as tables: lines of cells that are text, for pages and terminals alike.

Knows how a figure is written, and nothing of Markdown, HTML or files.
"""

from collections.abc import Sequence

from microgpt.reports.budgets import Budget
from microgpt.reports.records import shown
from microgpt.reports.statistics import Difference, Factorial, Interval, summary
from microgpt.reports.variants import Comparison, Factor, Family, comparisons

Line = dict[str, str]  # column -> cell

EXPLANATION = (
    "Intervals are 95 % and not adjusted. p (Holm) is adjusted for all comparisons of the table; the verdict follows "
    "it, at 0.05. Seeds needed: to see a difference of this size with 80 % power, in a single test at 0.05."
)
EFFECT_NAMES = {
    "d_z": "d_z: mean difference over the standard deviation of the differences, seed by seed.",
    "d_av": "d_av: difference of the means over the root of the mean variance, where seeds are not shared; each "
    "variant then needs so many seeds.",
}


def variant_lines(family: Family) -> list[Line]:
    """One line a variant, best first; variants without a completed run last."""
    others = ("mean_loss_last_n", "steps_per_sec")
    lines = []
    for variant, found in family.ranked:
        line = {
            "variant": variant.name,
            "parameters": shown(variant.parameters),
            "seeds": str(found.n),
            "failed": str(variant.failed),
            f"{family.figure} mean": shown(found.mean),
            "sd": shown(found.sd),
            "median": shown(found.median),
            "95 % interval": interval_text(found.interval, "{:.4f}"),
        }
        for column in others:
            if column != family.figure:
                line[column] = shown(summary(list(variant.values(column).values())).mean)
        lines.append(line)
    for variant in family.variants:
        if not variant.rows:
            known = {"variant": variant.name, "seeds": "0", "failed": str(variant.failed)}
            lines.append({column: known.get(column, "-") for column in lines[0]})
    return lines


def effect_lines(effects: Factorial, factors: tuple[Factor, Factor]) -> list[Line]:
    """Both main effects and the interaction."""
    first, second = factors
    named = [(first.label, effects.a), (second.label, effects.b), ("interaction", effects.interaction)]
    return [{"effect": name, **difference_cells(found)} for name, found in named]


def comparison_lines(compared: Sequence[Comparison]) -> list[Line]:
    return [{"a": one.a.name, "b": one.b.name, **difference_cells(one.difference)} for one in compared]


def budget_lines(budget: Budget) -> list[Line]:
    """One line a variant of a common budget, best first, with its difference to the baseline."""
    baseline = budget.family.baseline
    compared = comparisons(budget.family, budget.samples, most_paired=0)
    against = {one.a.name: one.difference for one in compared if one.b is baseline}
    summaries = {name: summary(list(sample.values())) for name, sample in budget.samples.items()}
    lines = []
    for name in sorted(summaries, key=lambda name: summaries[name].mean):
        found, difference = summaries[name], against.get(name)
        line = {"variant": name, "seeds": str(found.n), "mean": shown(found.mean)}
        amount = {f"against {baseline.name}": "-" if difference is None else signed(difference.mean)}
        if not budget.independent:
            lines.append(line | amount)
            continue
        lines.append({
            **line,
            "95 % interval": interval_text(found.interval, "{:.4f}"),
            **amount,
            "p (Holm)": "-" if difference is None else p_text(difference.p_holm),
            "verdict": "-" if difference is None else difference.sentence,
        })  # fmt: skip
    return lines


def difference_cells(found: Difference) -> Line:
    return {
        "difference": signed(found.mean),
        "95 % interval": interval_text(found.interval, "{:+.4f}"),
        "p": p_text(found.p),
        "p (Holm)": p_text(found.p_holm),
        "effect size": "-" if found.effect_size is None else f"{found.effect_name} {found.effect_size:+.2f}",
        "seeds needed": needed_text(found),
        "verdict": found.sentence,
    }


def explanation(differences: Sequence[Difference]) -> str:
    """What the columns of tables of differences mean."""
    names = dict.fromkeys(found.effect_name for found in differences if found.p is not None)
    return " ".join([EXPLANATION, *(EFFECT_NAMES[name] for name in names)])


def signed(value: float | None) -> str:
    """Four decimals, or two digits where these would say little."""
    if value is None:
        return "-"
    return f"{value:+.4f}" if abs(value) >= 0.001 or value == 0 else f"{value:+.1e}"


def interval_text(interval: Interval | None, form: str) -> str:
    return "-" if interval is None else f"[{form.format(interval.low)}, {form.format(interval.high)}]"


def p_text(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def needed_text(found: Difference) -> str:
    if found.p is None:
        return "-"
    return ">1000000" if found.seeds_needed is None else str(found.seeds_needed)
