"""A command-line key that the task or the chosen options do not use is rejected with one sentence."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.compositions import composed
from support.program import mostly_slow

from microgpt.config.choices import TASKS
from microgpt.config.keys import keys_of, walk
from microgpt.config.schema import Config, TaskConfig
from microgpt.config.usage import RULES, refuse_keys_unused_by_all, refuse_unused_keys, unused
from microgpt.config.validation import check
from microgpt.errors import UserError
from microgpt.runs.invocation import Invocation, SweepJob

KEYS = [name for name, _, _ in walk(Config())]
# Keys that every task takes: what to do and where, and what has rules of its own in validation.py.
OF_EVERY_TASK = {"task.name", "checkpoint", "outputs_dir", "results_dir"}


def refusal(*overrides: str) -> str | None:
    """Return the error message of a command, or None if it is allowed."""
    config = composed(*overrides)
    try:
        check(config)
        refuse_unused_keys(config, Invocation(overrides))
    except UserError as error:
        return str(error)
    return None


def test_every_key_is_of_some_task_or_of_every() -> None:
    parts = {part for task in TASKS.values() for part in task.reads}
    unread = {key for key in KEYS if not any(key == part or key.startswith(f"{part}.") for part in parts)}
    assert unread == OF_EVERY_TASK
    groups = set(keys_of(Config))
    assert {part for part in parts if part not in groups and part not in KEYS} == set()


@pytest.mark.parametrize("task", TASKS)
def test_every_key_is_used_by_the_task_or_refused(task: str) -> None:
    config = replace(Config(), task=TaskConfig(task))
    reads, job = TASKS[task].reads, SweepJob(Path(), 0, "0")
    for key in KEYS:
        used = key in OF_EVERY_TASK or any(key == part or key.startswith(f"{part}.") for part in reads)
        invocation = Invocation((f"task={task}", f"{key}=1"), job)
        try:
            refuse_unused_keys(config, invocation)
            said = None
        except UserError as error:
            said = str(error)
        assert (said is None) == used, key
        if said is not None:
            other = f"{key}=1 is not allowed: task={task} does not use it; it is a key of task="
            assert said.startswith((other, f"{key.split('.')[0]} cannot be changed with task={task}: "))


REFUSED = [  # the last override, and why
    ("sample.num_samples=0 sample.prompt=a", "sample.num_samples=0 draws no samples"),
    ("sample.num_samples=0 sample.seed=1", "sample.num_samples=0 draws no samples"),
    ("sample.temperature=0 sample.top_k=3", "sample.temperature=0 always takes the most likely token"),
    ("data.val_fraction=0 train.eval_every=5", "data.val_fraction=0 holds out no documents"),
    ("data.val_fraction=0 data.split_seed=0", "data.val_fraction=0 holds out no documents"),
    ("train.resume_on_other_data=true", "it requires train.resume=<folder>"),
    ("data=text data.path=x data.format=stream data.long_documents=skip",
     "a running text is split into pieces of model.block_size"),
    ("schedule=constant schedule.total_steps=2000", "schedule=constant does not use it"),
    ("style=classic style.bias=2", "the style has no phrases"),
    ("style=classic style.long_documents=skip", "the style has no documents"),
    ("logger.project=p", "it requires logger=wandb or mlflow or trackio"),
    ("logger=tensorboard logger.project=p", "it requires logger=wandb or mlflow or trackio"),
    ("serve.port=1", "task=train does not use it; it is a key of task=serve"),
    ("task=chat checkpoint=x sample.prompt=a", "task=chat does not use it; it is a key of task=train, sample"),
    ("task=info checkpoint=x style=classic", "task=info does not use it; it is a key of task=train, sample, "),
    ("task=explain train.log_every=5", "task=explain does not use it; it is a key of task=train"),
    # By the tables of the options, in validation.py
    ("data.path=a.txt", "it requires data=text or chat"),
    ("data.format=stream", "it requires data=text or alice"),
    ("data.loss_on=all", "it requires data=chat"),
    ("optim.momentum=0.5", "it requires optim=sgd or muon"),
    ("schedule.warmdown_steps=5", "it requires schedule=warmdown or sqrt"),
    ("mode=tensor backend=native backend.micro_batch=2", "it requires backend=torch"),
    ("model.rope_theta=5.0", "it requires model.position=rope"),
]  # fmt: skip


@mostly_slow(8, ("command", "why"), REFUSED)
def test_key_without_effect_is_refused(command: str, why: str) -> None:
    overrides = command.split()
    said = refusal(*overrides)
    assert said is not None
    assert said.startswith(f"{overrides[-1]} is not allowed: {why}")


def test_key_of_sweeps_is_refused_for_a_run_alone() -> None:
    assert refusal("sweep.fresh=true") == "sweep.fresh=true is not allowed without -m: only sweeps use it"


@mostly_slow(4, "overrides", [
    ["sample.num_samples=0"], ["sample.temperature=0", "sample.seed=3"], ["style=classic"], ["style.bias=0"],
    ["data.val_fraction=0", "train.checkpoint_every=5"], ["experiment=debug", "data.val_fraction=0"],
    ["experiment=chat", "sample.num_samples=0"], ["logger=wandb", "logger.project=p"], ["results_dir=b"],
    ["task=sample", "checkpoint=x", "style.bias=1", "seed=1", "sample.bulk=false"], ["task=info", "checkpoint=x"],
    ["experiment=chat", "task=info", "checkpoint=x"], ["train.resume=x", "train.resume_on_other_data=true"],
    ["task=chat", "checkpoint=x", "sample.temperature=1"], ["task=explain", "optim=sgd", "train.steps=5"],
])  # fmt: skip
def test_keys_with_an_effect_and_values_of_files_are_allowed(overrides: list[str]) -> None:
    assert refusal(*overrides) is None


def test_rules_name_keys_of_the_schema() -> None:
    assert {key for rule in RULES for key in rule.keys} <= set(KEYS)


def test_key_that_some_jobs_of_a_sweep_use_is_allowed_and_one_that_none_uses_is_refused() -> None:
    def job(*overrides: str) -> tuple[Config, Invocation]:
        return composed(*overrides), Invocation(overrides)

    classic, futuristic = job("style=classic", "style.bias=1"), job("style=futuristic", "style.bias=1")
    assert unused(*classic)
    assert not unused(*futuristic)
    refuse_keys_unused_by_all([classic, futuristic])
    refuse_keys_unused_by_all([classic])
    refuse_keys_unused_by_all([])
    with pytest.raises(UserError, match=r"style\.bias=1 is not allowed: the style has no phrases"):
        refuse_keys_unused_by_all([classic, classic])
