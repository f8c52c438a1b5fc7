"""Whether figures of several variants were measured on the same documents, and if not, in what they differ.

Reads the records of variants only where the configuration leaves it open (a limit that may exceed the documents, a
block that may be longer than all of them).
"""

import json
from pathlib import Path
from typing import Any

from microgpt.reports.records import Row
from microgpt.runs.record import RECORD


def measured_alike(rows: list[Row], figure: str) -> tuple[list[int], str | None]:
    """For one run of each variant the number of its group, and what sets the groups apart, a sentence, if anything.

    `figure` is val_loss or mean_loss_last_n. Figures of variants of one group may be compared.
    """
    facts = all_facts(rows, figure)
    texts = [json.dumps(found, sort_keys=True) for found in facts]
    order = list(dict.fromkeys(texts))
    groups = [order.index(text) for text in texts]
    if len(order) < 2:
        return groups, None
    apart = [key for key in facts[0] if len({json.dumps(found[key], sort_keys=True) for found in facts}) > 1]
    reasons = "; ".join(f"{key} is {' or '.join(values_of(facts, key))}" for key in apart)
    what = "validated on the same documents" if figure == "val_loss" else "trained on the same documents"
    return groups, f"{figure} can be compared only between variants that were {what}: {reasons}."


def values_of(facts: list[dict[str, Any]], key: str) -> list[str]:
    """The different values of a fact, for a sentence; digests by their beginning."""
    texts = dict.fromkeys(json.dumps(found[key]).strip('"') for found in facts)
    return [text if len(text) <= 20 else f"{text[:8]}..." for text in texts]


def all_facts(rows: list[Row], figure: str) -> list[dict[str, Any]]:
    """What decides on which documents, and in which tokens, a figure was measured."""
    facts = [plain_facts(row, figure) for row in rows]
    limits = [setting(row, "train", "eval_documents") for row in rows]
    if figure == "val_loss" and len(set(limits)) > 1:
        for found, row, limit in zip(facts, rows, limits, strict=True):
            found["evaluated documents"] = data_of(row).get("evaluated_documents", limit)
    blocks = [(setting(row, "model", "block_size"), setting(row, "data", "long_documents")) for row in rows]
    if len(set(blocks)) > 1 and any(is_cut(row) for row in rows):
        for found, (block_size, policy) in zip(facts, blocks, strict=True):
            found |= {"model.block_size": block_size, "data.long_documents": policy}
    return facts


def plain_facts(row: Row, figure: str) -> dict[str, Any]:
    keys = [("data", key) for key in ("format", "val_fraction", "split_seed")]
    if figure != "val_loss":
        keys += [("style", "documents"), ("style", "share"), ("style", "long_documents"), ("train", "last_n")]
    facts = {f"{group}.{key}": setting(row, group, key) for group, key in keys}
    return {"the data's SHA-256": row["data_sha256"], **facts, "vocab_size": row["vocab_size"]}


def is_cut(row: Row) -> bool:
    """Whether the block's size changes what is measured: a stream is cut into blocks, and a long document to one."""
    count = (data_of(row).get("long_documents") or {}).get("count")
    return setting(row, "data", "format") == "stream" or count != 0


def setting(row: Row, group: str, key: str) -> Any:
    return (row["config"].get(group) or {}).get(key)


def data_of(row: Row) -> dict[str, Any]:
    """What the record says of the data; empty where the record is not there any more."""
    try:
        return json.loads((Path(row["path"]) / RECORD).read_bytes()).get("data") or {}
    except (OSError, ValueError):
        return {}
