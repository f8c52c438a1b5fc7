"""Differences and their intervals in words, and lists of names."""

from collections.abc import Sequence

from microgpt.reports.factor_effects import Effect
from microgpt.reports.paired_statistics import Difference, Interval, Verdict
from microgpt.reports.tables import decimals


def told(found: Difference, metric: str) -> str:
    """Return `val_loss is lower by 0.031 [0.028, 0.034]`, or what the interval leaves possible."""
    if found.mean is None or found.verdict is Verdict.UNTESTED:
        return f"not tested ({found.sentence})"
    if found.verdict is Verdict.ZERO:
        return "no effect, all differences are zero"
    direction = f"{metric} is {'lower' if found.mean < 0 else 'higher'} by"
    if found.verdict is Verdict.EQUAL:
        return f"{direction} {abs(found.mean):.4g} with every seed"
    if found.verdict is Verdict.SHOWN:
        return f"{direction} {size(found)}"
    return f"no effect is shown ({between_ends(found.interval)})"


def listed(texts: Sequence[str]) -> str:
    """Return `a, b and c`."""
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def size(found: Difference) -> str:
    """Return `0.031 [0.028, 0.034]` of an effect, without its sign."""
    mean, interval = found.mean or 0.0, found.interval
    if interval is None:
        return f"{abs(mean):.4g}"
    digits = decimals(interval)
    low, high = (interval.low, interval.high) if mean > 0 else (-interval.high, -interval.low)
    return f"{abs(mean):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def signed(found: Difference) -> str:
    """Return `+0.031 [+0.028, +0.034]`, of a difference without an interval the mean alone."""
    if found.mean is None or found.interval is None:
        return "-" if found.mean is None else f"{found.mean:+.4g}"
    digits = decimals(found.interval)
    return f"{found.mean:+.{digits}f} [{found.interval.low:+.{digits}f}, {found.interval.high:+.{digits}f}]"


def between(effects: Sequence[Effect]) -> str:
    """Return the range of the intervals of several effects."""
    known = [one.difference.interval for one in effects if one.difference.interval is not None]
    if not known:
        return "at zero"
    return between_ends(Interval(min(one.low for one in known), max(one.high for one in known)))


def between_ends(interval: Interval | None) -> str:
    assert interval is not None
    digits = decimals(interval)
    return f"between {interval.low:+.{digits}f} and {interval.high:+.{digits}f}"
