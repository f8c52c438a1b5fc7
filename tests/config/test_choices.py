"""Each table of choices lists exactly the implemented names, and conf/ has an option for each name."""

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

import pytest

from microgpt.app import config_directory
from microgpt.config.choices import EXPLAIN_FORMATS, EXPORT_FORMATS, LOGGERS, MODES, SCHEDULES, TASKS
from microgpt.config.keys import keys_of
from microgpt.config.schema import BackendConfig, DataConfig, ModelConfig, OptimConfig, ScheduleConfig
from microgpt.data.sources import SOURCES
from microgpt.engines.optimizer import OPTIMIZERS
from microgpt.engines.options import BACKENDS
from microgpt.explain import formats
from microgpt.model.spec import MODEL_KINDS
from microgpt.tasks import task_named
from microgpt.tasks.export import FORMATS
from microgpt.training import schedules


def test_every_schedule_has_a_function() -> None:
    assert list(schedules.SCHEDULES) == list(SCHEDULES)


@pytest.mark.parametrize("name", [name for name in LOGGERS if name != "none"])
def test_every_logger_has_a_module(name: str) -> None:
    assert callable(import_module(f"microgpt.training.loggers.{name}").connect)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_function(name: str) -> None:
    assert task_named(name).__name__ == name


def test_every_export_format_is_implemented() -> None:
    assert list(FORMATS) == list(EXPORT_FORMATS)


def test_every_format_of_an_explanation_is_implemented() -> None:
    assert list(formats.FORMATS) == list(EXPLAIN_FORMATS)


@pytest.mark.parametrize(
    ("node", "reads"),
    [(BackendConfig, [choice.keys for choice in BACKENDS.values()]),
     (DataConfig, [choice.keys for choice in SOURCES.values()]),
     (ModelConfig, [kind.sizes for kind in MODEL_KINDS.values()]),
     (OptimConfig, [choice.keys for choice in OPTIMIZERS.values()]),
     (ScheduleConfig, SCHEDULES.values())],
)  # fmt: skip
def test_keys_that_a_choice_reads_are_in_the_schema(node: type, reads: Iterable[Sequence[str]]) -> None:
    assert {key for keys in reads for key in keys} <= set(keys_of(node))


def test_every_backend_belongs_to_one_mode() -> None:
    assert sorted(name for backends in MODES.values() for name in backends) == sorted(BACKENDS)


@pytest.mark.parametrize(
    ("group", "names"),
    [("task", TASKS), ("mode", MODES), ("backend", BACKENDS), ("optim", OPTIMIZERS), ("schedule", SCHEDULES),
     ("logger", LOGGERS)],
)  # fmt: skip
def test_every_name_has_an_option_and_every_option_a_name(group: str, names: dict[str, object]) -> None:
    assert {file.stem for file in Path(config_directory(), group).glob("*.yaml")} == set(names)
