"""Comparability: whether the losses of several variants were measured on the same documents, and if not, why not."""

import json
from collections.abc import Sequence
from typing import Any

from microgpt.reports.rows import Row


def comparable_groups(rows: Sequence[Row], metric: str) -> tuple[list[int], str | None]:
    """Return the group number of each variant, and a sentence on the differences between the groups.

    Variants of one group may be compared; a single group has no sentence. `rows` has one run of each variant, `metric`
    is val_loss or mean_loss_last_n.
    """
    conditions = measuring_conditions(rows, metric)
    texts = [json.dumps(found, sort_keys=True) for found in conditions]
    order = list(dict.fromkeys(texts))
    groups = [order.index(text) for text in texts]
    if len(order) < 2:
        return groups, None
    different = {key: distinct_values(conditions, key) for key in conditions[0]}
    reasons = "; ".join(f"{key} is {' or '.join(values)}" for key, values in different.items() if len(values) > 1)
    what = "validated on the same documents" if metric == "val_loss" else "trained on the same documents"
    return groups, f"{metric} can be compared only between variants that were {what}: {reasons}."


def distinct_values(conditions: Sequence[dict[str, Any]], key: str) -> list[str]:
    """Return the distinct values of a condition as text, with digests abbreviated."""
    texts = dict.fromkeys(json.dumps(found[key]).strip('"') for found in conditions)
    return [text if len(text) <= 20 else f"{text[:8]}..." for text in texts]


def measuring_conditions(rows: Sequence[Row], metric: str) -> list[dict[str, Any]]:
    """Return, for each run, the settings that determine the documents and tokens that the metric was measured on."""
    conditions = [configured_conditions(row, metric) for row in rows]
    limits = [row.setting("train", "eval_documents") for row in rows]
    if metric == "val_loss" and len(set(limits)) > 1:  # different limits may both exceed the documents
        for found, row, limit in zip(conditions, rows, limits, strict=True):
            known = row.evaluated_documents is not None
            found["evaluated documents"] = row.evaluated_documents if known else limit
    blocks = [(row.setting("model", "block_size"), row.setting("data", "long_documents")) for row in rows]
    if len(set(blocks)) > 1 and any(depends_on_block(row) for row in rows):
        for found, (block_size, policy) in zip(conditions, blocks, strict=True):
            found |= {"model.block_size": block_size, "data.long_documents": policy}
    return conditions


def configured_conditions(row: Row, metric: str) -> dict[str, Any]:
    keys = [("data", key) for key in ("format", "val_fraction", "split_seed")]
    if metric != "val_loss":
        keys += [("style", "documents"), ("style", "share"), ("style", "long_documents"), ("train", "last_n")]
    configured = {f"{group}.{key}": row.setting(group, key) for group, key in keys}
    return {"the data's SHA-256": row.data_sha256, **configured, "vocab_size": row.vocab_size}


def depends_on_block(row: Row) -> bool:
    """Whether model.block_size changes the measured text: it splits a stream, and documents that are longer."""
    return row.setting("data", "format") == "stream" or row.long_documents != 0
