"""Reject command-line keys that the task or the chosen options do not use.

Keys in files are not checked: the file of an experiment may set keys for options that a command replaces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from microgpt.config.choices import LOGGERS, TASKS, WITHOUT_HORIZON
from microgpt.config.schema import Config
from microgpt.config.sweeper_keys import DESIGNS
from microgpt.data.corpus import FORMATS
from microgpt.errors import UserError
from microgpt.runs.invocation import Invocation


@dataclass(frozen=True)
class Rule:
    """Keys that have no effect under a condition."""

    keys: tuple[str, ...]
    holds: Callable[[Config], bool]
    why: str


RULES = (
    Rule(
        ("sample.prompt", "sample.temperature", "sample.top_k", "sample.max_new_tokens", "sample.seed"),
        lambda config: "sample" in TASKS[config.task.name].reads and config.sample.num_samples == 0,
        "sample.num_samples=0 draws no samples",
    ),
    Rule(
        ("sample.top_k",),
        lambda config: config.sample.temperature == 0,
        "sample.temperature=0 always takes the most likely token",
    ),
    Rule(
        ("train.eval_every", "train.eval_documents", "data.split_seed"),
        lambda config: config.data.val_fraction == 0,
        "data.val_fraction=0 holds out no documents",
    ),
    Rule(
        ("train.resume_on_other_data",),
        lambda config: config.train.resume in ("auto", "never"),
        "it requires train.resume=<folder>",
    ),
    Rule(
        ("data.long_documents",),
        lambda config: not FORMATS[config.data.format].has_documents,
        "a running text is split into pieces of model.block_size",
    ),
    Rule(
        ("schedule.total_steps",),
        lambda config: config.schedule.name in WITHOUT_HORIZON,
        "schedule=" + " and ".join(WITHOUT_HORIZON) + " does not use it",
    ),
    Rule(("style.long_documents",), lambda config: not config.style.documents, "the style has no documents"),
    Rule(("style.bias",), lambda config: not config.style.phrases, "the style has no phrases"),
    Rule(
        ("logger.project",),
        lambda config: "project" not in LOGGERS[config.logger.name].keys,
        "it requires logger=" + " or ".join(name for name, choice in LOGGERS.items() if "project" in choice.keys),
    ),
)


def refuse_unused_keys(config: Config, invocation: Invocation) -> None:
    """Raise UserError for a command-line key without effect. The jobs of a sweep are checked together."""
    refuse_keys_of_other_tasks(config.task.name, invocation)
    if invocation.job is None:
        for node in ("sweep", "report.contrasts", "report.control", "report.nuisance", *DESIGNS):
            if invocation.touches(node):
                raise UserError(f"{override_of(node, invocation)} is not allowed without -m: only sweeps use it")
        for sentence in unused(config, invocation).values():
            raise UserError(sentence)


def refuse_keys_unused_by_all(jobs: Sequence[tuple[Config, Invocation]]) -> None:
    """Raise UserError for a key that no job of a sweep uses. A key needs to be used by only one of them."""
    if len(jobs) < 2:  # a sweeper that runs one job at a time may choose other options for the next job
        return
    found = [unused(config, invocation) for config, invocation in jobs]
    for key, sentence in found[0].items():
        if all(key in one for one in found):
            raise UserError(sentence)


def unused(config: Config, invocation: Invocation) -> dict[str, str]:
    """Return the error message for each command-line key that the chosen options do not use."""
    given = invocation.keys()
    return {
        key: f"{override_of(key, invocation)} is not allowed: {rule.why}"
        for rule in RULES
        if rule.holds(config)
        for key in rule.keys
        if key in given
    }


def refuse_keys_of_other_tasks(task: str, invocation: Invocation) -> None:
    """Raise UserError for a key that only other tasks use, or that the model of a checkpoint determines."""
    choice, given = TASKS[task], invocation.keys()
    for key in given:
        if key.split(".")[0] in MODEL_GROUPS and not choice.makes_model:
            why = "checkpoint=<folder> sets the model" if choice.needs_checkpoint else "it uses microgpt.py's model"
            raise UserError(f"{key.split('.')[0]} cannot be changed with task={task}: {why}")
        users = [name for name, one in TASKS.items() if any(covers(part, key) for part in one.reads)]
        if users and task not in users:
            given_as, named = override_of(key, invocation), ", ".join(users)
            raise UserError(f"{given_as} is not allowed: task={task} does not use it; it is a key of task={named}")


MODEL_GROUPS = ("model", "data", "optim", "schedule", "train")


def covers(part: str, key: str) -> bool:
    """Return whether `part`, a group or key that a task reads, is `key`, contains it, or is contained in it."""
    return part == key or key.startswith(f"{part}.") or part.startswith(f"{key}.")


def override_of(key: str, invocation: Invocation) -> str:
    """Return the override of a key, or the first override in a group, as written."""
    pairs = zip(invocation.keys(), invocation.overrides, strict=True)
    return next(override for name, override in pairs if name == key or name.startswith(f"{key}."))
