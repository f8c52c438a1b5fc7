"""The ablation: tied or untied head, with or without the input norm, over everything else equal.

Runs are compared only with runs that differ from them in nothing but the two toggles and the seed.
"""

import hashlib
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from microgpt.atomic import write_atomically
from microgpt.reports.rows import Row, shown, text_table, variant_name, write_table

VARIANTS = tuple(variant_name(tied, normed) for tied in (True, False) for normed in (False, True))
WITHOUT_EFFECT = ("log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "max_memory_growth")  # of train
# Nodes of the configuration that say nothing about what was learned, and the seed.
LEFT_OUT = ("task", "outputs_dir", "results_dir", "seed", "sample", "checkpoint")


def comparison_key(row: Row) -> str:
    """Equal for two runs that may be compared."""
    config = {key: value for key, value in row["config"].items() if key not in LEFT_OUT}
    model = {key: value for key, value in config["model"].items() if key not in ("tie_lm_head", "input_rmsnorm")}
    train = {key: value for key, value in config["train"].items() if key not in WITHOUT_EFFECT}
    if train.get("resume") in ("auto", "never"):  # a folder makes it a new leg, which is another thing
        del train["resume"]
    content = json.dumps([{**config, "model": model, "train": train}, row["data_sha256"]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def comparable_groups(rows: list[Row]) -> dict[str, list[Row]]:
    """Completed runs by what they may be compared with; only groups in which all four variants are present.

    Of several runs of one variant and seed the newest counts: a repeated run is the same run.
    """
    newest: dict[tuple[str, str, Any], Row] = {}
    for row in rows:  # oldest first
        if row["status"] == "completed":
            newest[comparison_key(row), row["variant"], row["seed"]] = row
    groups: dict[str, list[Row]] = {}
    for (key, _, _), row in newest.items():
        groups.setdefault(key, []).append({"comparison": key, **row})
    whole = {key: group for key, group in groups.items() if {row["variant"] for row in group} == set(VARIANTS)}
    for group in whole.values():
        group.sort(key=lambda row: (VARIANTS.index(row["variant"]), row["seed"]))
    return whole


def write_ablation(rows: list[Row], stem: Path) -> list[Path]:
    """Write the ablation's tables; where there is none, remove what an earlier collection of other runs wrote."""
    groups = comparable_groups(rows)
    if not groups:
        for ending in (".csv", ".jsonl", ".md"):
            Path(f"{stem}{ending}").unlink(missing_ok=True)
        return []
    flat = [move_last(row, "comparison", "config") for group in groups.values() for row in group]
    markdown = Path(f"{stem}.md")
    write_atomically(markdown, ablation_markdown(groups))
    return [*write_table(flat, stem), markdown]


def move_last(row: Row, *keys: str) -> Row:
    return {key: value for key, value in row.items() if key not in keys} | {key: row[key] for key in keys}


def figure_of(group: list[Row]) -> str:
    """What variants are ranked by: val_loss, or where there is no validation the mean of the last training losses."""
    return "val_loss" if all(row["val_loss"] is not None for row in group) else "mean_loss_last_n"


def summary(group: list[Row]) -> list[dict[str, Any]]:
    """One line a variant, best first."""
    figure = figure_of(group)
    lines = []
    for variant in VARIANTS:
        runs = [row for row in group if row["variant"] == variant]
        values = [row[figure] for row in runs]
        lines.append({
            "variant": variant,
            "parameters": runs[0]["parameter_count"],
            "seeds": len(runs),
            f"{figure} mean": mean(values),
            "sd": stdev(values) if len(values) > 1 else None,
            "mean_loss_last_n": mean(row["mean_loss_last_n"] for row in runs),
            "steps_per_sec": mean(row["steps_per_sec"] for row in runs),
        })  # fmt: skip
    return sorted(lines, key=lambda line: line[f"{figure} mean"])


def caveat(group: list[Row]) -> str:
    """What the table does not show."""
    commits = {(row["git_commit"], row["git_dirty"]) for row in group}
    mixed = "" if len(commits) == 1 else " The runs are of different states of the code."
    return seeds_caveat(group) + mixed


def seeds_caveat(group: list[Row]) -> str:
    seeds = {variant: {row["seed"] for row in group if row["variant"] == variant} for variant in VARIANTS}
    if len({frozenset(s) for s in seeds.values()}) > 1:
        return "The variants were not run with the same seeds: their means are not paired."
    count = len(seeds[VARIANTS[0]])
    if count == 1:
        return "One seed: a difference between variants cannot be told from chance. Add seeds, as in `seed=range(8)`."
    return f"Means over the same {count} seeds; sd is over seeds. No test of the differences is made here."


def subject(group: list[Row]) -> str:
    row = group[0]
    config = row["config"]
    sizes = ", ".join(
        f"{key} {config['model'][key]}" for key in ("n_embd", "n_head", "n_layer", "block_size") if config["model"][key]
    )
    return (
        f"model {row['model']} ({sizes}), data {row['data']}, style {row['style']}, {row['steps']} steps of batch "
        f"{config['train']['batch_size']}, {config['optim']['name']} lr {config['optim']['lr']}, "
        f"schedule {config['schedule']['name']}, mode {row['mode']}"
    )


def ablation_markdown(groups: dict[str, list[Row]]) -> str:
    parts = ["# Ablation: tie_lm_head x input_rmsnorm\n"]
    for key, group in groups.items():
        lines = summary(group)
        header = list(lines[0])
        table = [header, ["---"] * len(header), *([shown(line[name]) for name in header] for line in lines)]
        parts.append(f"## {subject(group)} (comparison {key})\n")
        parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in table) + "\n")
        parts.append(f"Ranked by {figure_of(group)}, best first. {caveat(group)}\n")
    return "\n".join(parts)


def ablation_text(rows: list[Row]) -> str:
    """The ablation for a terminal; empty where it is not whole."""
    parts = []
    for group in comparable_groups(rows).values():
        table = text_table(summary(group))
        parts.append(f"ablation: {subject(group)}\n{table}\nranked by {figure_of(group)}. {caveat(group)}")
    return "\n\n".join(parts)
