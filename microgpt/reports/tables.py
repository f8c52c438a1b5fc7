"""The statistics of a family as the cells of tables."""

import math
from collections.abc import Sequence

from microgpt.reports.budgets import Budget, is_too_short
from microgpt.reports.factor_effects import Compared, Effect, Effects
from microgpt.reports.paired_statistics import Difference, Interval, Verdict, number_of_seeds, summary
from microgpt.reports.report import Cells
from microgpt.reports.run_families import Family
from microgpt.reports.variant_comparisons import comparisons

MOST_DECIMALS = 6
MOST_NEEDED = 1000  # seeds; estimates of more are too uncertain to state
RATES = ("steps_per_sec", "tokens_per_sec")
EXPLANATION = (
    "Below zero, the loss is lower. Differences are taken seed by seed. The 95 % intervals are simultaneous for {}: "
    "with 95 % probability all of them contain the true values. p (adjusted) is corrected for all of them and decides "
    "the verdict at 0.05. Seeds needed: for 80 % power after the correction, if the effect is as large as estimated."
)
EFFECT_NAMES = {
    "d_z": "d_z: mean difference divided by its standard deviation over seeds.",
    "d_av": "d_av: difference of the means divided by the root of the mean variance, for variants with different "
    "seeds; each variant then needs that number of seeds.",
}
# kind of effect -> the words for a mean below zero and for a mean above zero
DIRECTIONS = {
    "difference": ("lower", "higher"),
    "trend": ("falls", "rises"),
    "departure": ("below the line", "above the line"),
    "interaction": ("below zero", "above zero"),
}
SHOWN = {
    Verdict.SHOWN: "yes",
    Verdict.NOT_SHOWN: "no",
    Verdict.ZERO: "no",
    Verdict.EQUAL: "no test",
    Verdict.UNTESTED: "one seed",
}


def variant_rows(family: Family, compared: Compared | None = None) -> list[Cells]:
    """Return a row for each variant, best first, with its difference from the best one if they were `compared`.

    Variants without a completed run are last.
    """
    columns = ("mean_loss_last_n", *(() if is_too_short(family) else ("steps_per_sec",)))
    others = [column for column in columns if column != family.metric]
    rows = []
    for variant, found in family.ranked:
        digits = max(4, decimals(found.interval))
        number = f"{{:.{digits}f}}".format
        row = {
            "variant": variant.name,
            "parameters": cell(variant.parameters),
            "seeds": str(found.n),
            "failed": str(variant.failed),
            f"{family.metric} mean": number(found.mean),
            "sd": "-" if found.sd is None else number(found.sd),
            "median": number(found.median),
            "95 % interval": interval_cell(found.interval, f"{{:.{digits}f}}"),
            **from_best_cells(variant.name, compared),
        }
        means = {column: variant.summary(column).mean for column in others}
        rows.append(row | {column: value_cell(column, mean) for column, mean in means.items()})
    for variant in family.variants:
        if not variant.rows:
            known = {"variant": variant.name, "seeds": "0", "failed": str(variant.failed)}
            rows.append({column: known.get(column, "-") for column in rows[0]})
    return rows


def from_best_cells(name: str, compared: Compared | None) -> Cells:
    """Return the difference of a variant from the best one, its interval, and whether the difference is shown."""
    names = ("from best", "95 % interval of the difference", "differs")
    if compared is None:
        return {}
    if name == compared.best.name:
        return dict(zip(names, ("best", "", ""), strict=True))
    found = compared.from_best.get(name)
    if found is None:
        return dict.fromkeys(names, "-")
    some = f" ({number_of_seeds(found.n)})" if found.left_out else ""
    form = f"{{:+.{max(4, decimals(found.interval))}f}}"
    mean = signed(found.mean) if found.interval is None or found.mean is None else form.format(found.mean)
    return dict(zip(names, (mean, interval_cell(found.interval, form), f"{SHOWN[found.verdict]}{some}"), strict=True))


def effect_rows(effects: Sequence[Effect]) -> list[Cells]:
    """Return a row for each effect."""
    return [
        {
            "effect": one.contrast.label,
            **difference_cells(one.difference, decimals(one.difference.interval), DIRECTIONS[one.contrast.kind]),
        }
        for one in effects
    ]


def effect_rows_of_ablation(effects: Effects) -> list[Cells]:
    """Return a row for each main effect and one for the interaction; if a variant is missing, for what is left."""
    return [
        {
            "effect": "interaction" if one.contrast.kind == "interaction" else one.contrast.label,
            **difference_cells(one.difference, directions=DIRECTIONS[one.contrast.kind]),
        }
        for one in effects.averaged or effects.simple
    ]


def budget_rows(budget: Budget) -> list[Cells]:
    """Return a row for each variant at a common budget, best first, with its difference from the baseline."""
    baseline = budget.family.baseline
    compared = comparisons(budget.family, budget.samples, most_paired=0)
    against = {one.a.name: one.difference for one in compared if one.b is baseline}
    summaries = {name: summary(sample.values()) for name, sample in budget.samples.items()}
    tests = ("95 % interval", "p (adjusted)", "verdict")
    rows = []
    for name, found in sorted(summaries.items(), key=lambda item: item[1].mean):
        difference = against.get(name)
        row = {
            "variant": name,
            "seeds": str(found.n),
            "mean": cell(found.mean),
            "95 % interval": interval_cell(found.interval, "{:.4f}"),
            f"against {baseline.name}": signed(difference.mean if difference else None),
            "p (adjusted)": p_cell(difference.p_adjusted if difference else None),
            "verdict": difference.sentence if difference else "-",
        }
        rows.append({column: text for column, text in row.items() if budget.independent or column not in tests})
    return rows


def difference_cells(found: Difference, digits: int = 4, directions: tuple[str, str] = ("lower", "higher")) -> Cells:
    return {
        "difference": signed(found.mean) if found.interval is None else f"{found.mean:+.{digits}f}",
        "95 % interval": interval_cell(found.interval, f"{{:+.{digits}f}}"),
        "p": p_cell(found.p),
        "p (adjusted)": p_cell(found.p_adjusted),
        "effect size": "-" if found.effect_size is None else f"{found.effect_name} {found.effect_size:+.2f}",
        "seeds needed": seeds_needed_cell(found),
        "verdict": found.verdict_as(*directions),
    }


def seeds_needed_cell(found: Difference) -> str:
    """Return the seeds that an effect of this size needs; empty if the effect is shown."""
    if found.p is None or found.verdict is Verdict.SHOWN:
        return ""
    needed = found.seeds_needed
    return f"> {MOST_NEEDED}" if needed is None or needed > MOST_NEEDED else str(needed)


def explanation(differences: Sequence[Difference]) -> str:
    """Return the caption that explains the columns of a table of differences."""
    tested = [found for found in differences if found.p is not None]
    names = dict.fromkeys(found.effect_name for found in tested)
    return " ".join([EXPLANATION.format(composition(tested)), *(EFFECT_NAMES[name] for name in names)])


def composition(tested: Sequence[Difference]) -> str:
    """Return how many comparisons the intervals are simultaneous for, and which."""
    largest = max(tested, key=lambda one: one.comparisons, default=None)
    number, pairs = (largest.comparisons, largest.pairs) if largest else (0, 0)
    rest = number - pairs
    words = f"all {pairs} pairs of variants" + f" and {counted(rest, 'further contrast')}, not all listed" * (rest > 0)
    return f"all {number} comparisons of this report" + f" ({words})" * (pairs > 1)


def cell(value: object) -> str:
    """Return a value with four decimals if it is a float, a dash for None."""
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def value_cell(column: str, value: object) -> str:
    """Return the value of a column: a rate with four digits, other numbers with four decimals."""
    if column in RATES and isinstance(value, int | float):
        return f"{float(f'{value:.4g}'):.10g}"
    return cell(value)


def decimals(interval: Interval | None) -> int:
    """Return the number of decimals that shows two digits of an interval's half-width; four without an interval."""
    half = 0.0 if interval is None else (interval.high - interval.low) / 2
    return min(MOST_DECIMALS, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 4


def shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def signed(value: float | None) -> str:
    """Return a difference with four decimals, or two digits of a small one."""
    if value is None:
        return "-"
    digits = 4 if value == 0 else max(4, 1 - math.floor(math.log10(abs(value))))
    return f"{value:+.{digits}f}" if digits <= MOST_DECIMALS else f"{value:+.1e}"


def interval_cell(interval: Interval | None, form: str) -> str:
    return "-" if interval is None else f"[{form.format(interval.low)}, {form.format(interval.high)}]"


def p_cell(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def counted(number: int, what: str) -> str:
    """Return `1 run`, `256 runs`."""
    return f"{number:,} {what}{'s' * (number != 1)}"
