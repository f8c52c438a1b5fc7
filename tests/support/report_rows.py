"""Rows of a sweep, read from records and histories that are written for the purpose; designs without records."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from microgpt.config.schema import Config, ModelConfig, StyleConfig
from microgpt.reports.curves import Curve, read_curve
from microgpt.reports.factors import Cell, Design, factor_of
from microgpt.reports.records import read_row
from microgpt.reports.rows import Row
from microgpt.reports.run_families import Family, Variant, families
from microgpt.reports.settings import label

GPT = ModelConfig(name="gpt", n_embd=16, n_head=4, n_layer=1)


class Sweep:
    """The jobs of a sweep, in the order in which they were added."""

    def __init__(self, outputs: Path, name: str = "sweep_01234567"):
        self.folder = outputs / "sweeps" / name
        self.rows: list[Row] = []

    def add(
        self,
        seed: int = 1,
        val_loss: float | None = 2.25,
        *,
        status: str = "completed",
        evaluations: Sequence[tuple[int, float]] = (),
        steps_per_sec: float = 100.0,
        parameters: int = 4192,
        job: str | None = None,
        data: dict[str, Any] | None = None,
        vocab_size: int = 27,
        **keys: Any,
    ) -> Row:
        """Add a run: `keys` are `group__key=value` or `key=value`, `evaluations` (step, val_loss) of its history."""
        config = asdict(Config(model=GPT, style=StyleConfig(name="classic"), seed=seed))
        for path, value in keys.items():
            *groups, key = path.split("__")
            node = config[groups[0]] if groups else config
            assert key in node, path
            node[key] = value
        number = str(len(self.rows)) if job is None else job
        facts = {"sha256": "d" * 64, "evaluated_documents": 100, "long_documents": {"count": 0}, **(data or {})}
        record = {
            "schema_version": 1,
            "run_id": f"sweeps/{self.folder.name}/{number}",
            "status": status,
            "task": "train",
            "started_at": f"2026-01-01T10:00:{len(self.rows):02d}.000+00:00",
            "config": config,
            "seed": seed,
            "style": config["style"]["name"],
            "backend": "native",
            "git": {"commit": "a" * 40, "dirty": False},
            "data": facts,
            "metrics": {
                "parameter_count": parameters,
                "steps": config["train"]["steps"],
                "val_loss": val_loss,
                "mean_loss_last_n": 2.5,
                "steps_per_sec": steps_per_sec,
                "vocab_size": vocab_size,
                "tokens_seen": 7 * config["train"]["steps"],
            },
        }
        folder = self.folder / number
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record))
        lines = [{"step": step, "tokens": 7 * step, "val_loss": loss} for step, loss in evaluations]
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        self.rows.append(read_row(folder / "run.json"))
        return self.rows[-1]

    def change(self, row: Row, **values: Any) -> Row:
        """Replace a row by one with other values."""
        new = replace(row, **values)
        self.rows[self.rows.index(row)] = new
        return new


def only_family(sweep: Sweep) -> Family:
    (family,) = families(sweep.rows)
    return family


def read(row: Row) -> Curve:
    return read_curve(row.folder, row.steps_per_sec)


def design(
    keys: Sequence[str], samples: Mapping[tuple[Any, ...], Mapping[int, float]], groups: Sequence[int] = ()
) -> Design:
    """Return a design of the values by seed of some combinations of the keys' values; the first is the reference."""
    settings = [dict(zip(keys, values, strict=True)) for values in samples]
    factors = tuple(factor_of(key, settings, settings[0], {}) for key in keys)
    cells = []
    for number, (own, sample) in enumerate(zip(settings, samples.values(), strict=True)):
        variant = Variant(label(own), own, {}, 0, 0, groups[number] if groups else 0)
        cells.append(Cell(tuple(factor.levels.index(own[factor.key]) for factor in factors), variant, sample))
    return Design(factors, tuple(cells))
