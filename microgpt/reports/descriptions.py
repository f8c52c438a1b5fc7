"""Sentences that describe a family: the training, the varied keys, the status of the runs, and missing seeds."""

from microgpt.reports.run_families import Family
from microgpt.reports.settings import DATA, abbreviated, setting, short, written
from microgpt.reports.tables import counted

SIZES = ("n_embd", "n_head", "n_layer", "block_size")
MOST_LEVELS = 12  # of a key that are listed
ONE_SEED = (
    "One seed: a difference between variants cannot be distinguished from chance. Add seeds, for example "
    "`seed=range(8)`."
)
UNEQUAL_SEEDS = (
    "The variants were not run with the same seeds: a comparison leaves out the seeds that one of its variants lacks, "
    "and says how many."
)


def subject(family: Family) -> str:
    """Return a sentence on the model and training that all variants have in common."""
    forms = {"model.name": "model {}"} | {f"model.{key}": f"{key} {{}}" for key in SIZES}
    forms |= {"data.name": "data {}", "style.name": "style {}", "train.steps": "{} steps"}
    forms |= {"train.batch_size": "batch {}", "optim.name": "optimizer {}", "optim.lr": "lr {}"}
    forms |= {"schedule.name": "schedule {}", "mode.name": "mode {}"}
    values = {key: text_of(key, family) for key in forms if key not in family.variants[0].settings}
    return f"Trained: {', '.join(forms[key].format(value) for key, value in values.items() if value is not None)}."


def varied(family: Family) -> list[str]:
    """Return sentences on the varied keys, with their values in the order of the sweep, and on keys that follow."""
    levels: dict[str, dict[str, None]] = {}
    for variant in family.variants:
        for key, value in variant.settings.items():
            levels.setdefault(key, {})[abbreviated(written(value))] = None
    told = [
        f"{short(key)} ({', '.join(values) if len(values) <= MOST_LEVELS else counted(len(values), 'value')})"
        for key, values in levels.items()
    ]
    return [f"Varied: {'; '.join(told)}.", also_different(family)] if told else []


def also_different(family: Family) -> str:
    """Return a sentence on the keys that differ between the options of a varied group; `varied` gives only their names.

    A key is left out if all options that have it set it to the same value.
    """
    rows = [one.first for one in family.variants if one.rows]
    told = []
    for name in (key for key in family.variants[0].settings if key.endswith(".name")):
        group = name.removesuffix("name")
        values: dict[str, dict[str, str]] = {}
        for row in rows:
            own = {key: value for key, value in row.settings.items() if key.startswith(group) and value is not None}
            for key in own.keys() - family.variants[0].settings.keys() - {DATA}:
                values.setdefault(key, {})[str(setting(row.settings, name))] = abbreviated(written(own[key]))
        options = len({setting(row.settings, name) for row in rows})
        told += [
            f"{key} ({', '.join(f'{option} {value}' for option, value in found.items())})"
            for key, found in sorted(values.items())
            if len(set(found.values())) > 1 or len(found) == 1 < options
        ]
    more = f" and {len(told) - MOST_LEVELS} more" if len(told) > MOST_LEVELS else ""
    names = " and ".join(short(key) for key in family.variants[0].settings if key.endswith(".name"))
    return f"Also different between the levels of {names}: {', '.join(told[:MOST_LEVELS])}{more}." if told else ""


def text_of(key: str, family: Family) -> str | None:
    """Return the value of a key as text; `0.01 (adam) or 0.1 (sgd)` if it depends on the option; None for null."""
    group, name = key.split(".")
    found: dict[str, str] = {}
    for row in family.rows:
        if (value := row.setting(group, name)) is not None:
            found.setdefault(str(value), str(row.setting(group, "name")))
    if len(found) > 1:
        return " or ".join(f"{value} ({option})" for value, option in found.items())
    return next(iter(found), None)


def runs_sentence(family: Family) -> str:
    ended = [f"{len(family.rows):,} completed"]
    for status in ("failed", "interrupted", "running"):
        number = sum(row.status == status for row in family.missing)
        ended += [f"{number:,} {status}"] * (number > 0)
    seeds = {row.seed for row in family.rows}
    return (
        f"{counted(len(family.rows) + len(family.missing), 'run')}: {', '.join(ended)}; "
        f"{counted(len(family.variants), 'variant')}, {counted(len(seeds), 'seed')}"
    )


def best_of(family: Family) -> str:
    """Return the metric's mean, and the best variant's name if there are several.

    Return an empty string if the variants are not comparable or none has a result.
    """
    if not family.ranked or family.obstacle is not None:
        return ""
    variant, found = family.ranked[0]
    return f"{family.metric} {found.mean:.4f}{f', best {variant.name}' if len(family.ranked) > 1 else ''}"


def caveat(family: Family) -> str:
    """Return sentences on missing seeds, different versions of the code and unfinished runs."""
    seeds = [set(variant.rows) for variant in family.variants]
    if any(own != seeds[0] for own in seeds):
        found = [UNEQUAL_SEEDS]
    elif len(seeds[0]) == 1:
        found = [ONE_SEED]
    else:
        found = [f"All variants have the same {len(seeds[0])} seeds; sd and intervals are over seeds."]
    if len({(row.git_commit, row.git_dirty) for row in family.rows}) > 1:
        found.append("The runs were made with different versions of the code.")
    unfinished = sum(variant.unfinished for variant in family.variants)
    return " ".join([*found, *([f"Unfinished runs: {unfinished}."] if unfinished else [])])
