"""config_hash does not change for any configuration; the effect of a key decides which runs differ."""

# ruff: noqa: RUF009 (`key` and `group` return dataclass fields)
import json
import math
from dataclasses import asdict, dataclass, replace

import pytest
from support.compositions import composed

from microgpt.config.identity import config_hash, identity, label, training_settings
from microgpt.config.keys import as_plain, group, key
from microgpt.config.schema import Config, TrainConfig
from microgpt.config.task_keys import ServeConfig

# The first 16 digits of the hashes of version 0.1.0. A sweep that an earlier version began resumes only if they hold.
HASHES = {
    "": "647b54a632911520",
    "seed=1": "3c8b2e07bd923910",
    "mode=scalar style=classic train.steps=500": "effacba5dda5ff41",
    "mode=tensor backend=torch backend.device=cpu backend.threads=1 backend.compile=true": "8d7423d535ba8023",
    "model=bigram model.tie_lm_head=true optim=sgd optim.momentum=0.9": "7c6dd5cd18ddbd9f",
    "experiment=karpathy": "8f1a5f969d6731f1",
    "experiment=karpathy_first mode=tensor": "fd8c2f4c77b2551f",
    "experiment=chat": "9ee900f35d7aeb57",
    "experiment=debug style.bias=1.5 style.share=0.25": "e8478f2b97176bc1",
    "data=text data.path=input.txt data.format=stream schedule=warmdown schedule.warmdown_steps=3": "f71cc9dd249d9546",
    "optim=adamw optim.weight_decay=0.1 optim.grad_clip=1 schedule=sqrt schedule.warmup_steps=10": "4b5cf5085c114ace",
    "train.resume=outputs/earlier train.eval_every=null train.checkpoint_every=null": "d06315d2a2650d27",
    "train.resume=never outputs_dir=a results_dir=b": "647b54a632911520",
    "task=serve checkpoint=latest serve.port=1 serve.api_key=x": "7ad00984f1785f0a",
    "task=export checkpoint=latest export.half=true logger=wandb logger.project=p": "89002c7d3f2394d4",
    "sample.prompt=an sample.temperature=0 sample.top_k=3 sample.seed=7 sweep.fresh=true": "03b65ffdf2062f49",
    "task=benchmark benchmark.repeats=5 train.max_memory_growth=null": "de46f4081d323a7e",
}


@pytest.mark.parametrize(("command", "digits"), HASHES.items(), ids=HASHES)
def test_config_hash_is_that_of_earlier_versions(command: str, digits: str) -> None:
    assert config_hash(composed(*command.split()))[:16] == digits


@dataclass(frozen=True)
class NewGroup:
    width: int = key(4, "a key of a group added later", new=True)


@dataclass(frozen=True)
class LaterTrainConfig(TrainConfig):
    momentum_warmup: float = key(0.0, "a number added later", new=True)
    milestones: list[int] = key([], "a list added later", new=True)


@dataclass(frozen=True)
class LaterConfig(Config):
    train: LaterTrainConfig = group(LaterTrainConfig)
    position: NewGroup = group(NewGroup)
    dropout: float | None = key(None, "a key added later", new=True)


def test_new_keys_at_their_defaults_leave_the_hash_unchanged() -> None:
    assert config_hash(LaterConfig()) == config_hash(Config())


@pytest.mark.parametrize(
    "changed",
    [LaterConfig(dropout=0.1), LaterConfig(position=NewGroup(8)), LaterConfig(train=LaterTrainConfig(milestones=[1])),
     LaterConfig(train=LaterTrainConfig(momentum_warmup=0.5))],
    ids=["key", "key of a new group", "list", "key of an older group"],
)  # fmt: skip
def test_new_keys_count_when_they_are_changed(changed: LaterConfig) -> None:
    assert config_hash(changed) != config_hash(LaterConfig())


@pytest.mark.parametrize("override", ["outputs_dir=a", "results_dir=b", "train.resume=never", "task.name=info"])
def test_config_hash_ignores_where_files_go_and_whether_to_resume(override: str) -> None:
    assert config_hash(composed(override)) == config_hash(composed())


@pytest.mark.parametrize(
    "override",
    ["seed=1", "train.resume=outputs/some/run", "train.steps=999", "optim.lr=0.02", "model.tie_lm_head=true",
     "style.bias=1", "data.split_seed=1", "sample.num_samples=3", "train.eval_documents=7"],
)  # fmt: skip
def test_config_hash_changes_with_what_a_run_computes(override: str) -> None:
    assert config_hash(composed(override)) != config_hash(composed())


def test_config_hash_does_not_depend_on_how_a_value_was_written() -> None:
    assert config_hash(composed("optim.lr=1e-2")) == config_hash(composed("optim.lr=0.01"))
    assert math.isclose(composed("optim.lr=1e-2").optim.lr, 0.01)


def test_training_settings_are_the_keys_that_affect_weights_or_losses() -> None:
    settings = training_settings(json.loads(json.dumps(asdict(composed()))))
    assert {"seed", "model.n_embd", "optim.lr", "train.eval_documents", "backend.threads"} <= set(settings)
    groups = {"mode", "backend", "model", "style", "data", "optim", "schedule", "train", "seed"}
    assert {name.split(".")[0] for name in settings} == groups
    assert {name for name in settings if name.startswith("train.")} == {
        "train.steps", "train.batch_size", "train.eval_documents", "train.last_n",
    }  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [replace(Config(), serve=ServeConfig(port=1)), replace(Config(), train=TrainConfig(log_every=1, resume="never")),
     replace(Config(), outputs_dir="elsewhere", checkpoint="latest")],
    ids=["serve.port", "train.log_every", "folders"],
)  # fmt: skip
def test_runs_that_differ_in_other_keys_have_the_same_training_settings(changed: Config) -> None:
    assert training_settings(asdict(changed)) == training_settings(asdict(Config()))


@pytest.mark.parametrize("override", ["notes=a", "tags=[a]", "logger=tensorboard", "report.control='optim=adam'"])
def test_label_distinguishes_runs_that_differ_only_in_what_is_recorded(override: str) -> None:
    changed = composed(override)
    assert (label(as_plain(changed)) != "", config_hash(changed)) == (True, config_hash(composed()))


def test_label_leaves_out_defaults_and_keys_that_are_not_part_of_a_record() -> None:
    assert label(as_plain(replace(Config(), outputs_dir="a", seed=3)) | {"unknown": 2}) == ""
    assert label({}) == ""


def test_keys_of_other_versions_count_as_settings() -> None:
    plain = {"model": {"n_embd": 16, "unknown": 1}, "unknown": 2}
    assert training_settings(plain) == {"model.n_embd": 16, "model.unknown": 1, "unknown": 2}


def test_every_key_that_affects_training_is_hashed() -> None:
    hashed = identity(Config())
    for name in training_settings(asdict(Config())):
        node, _, key_name = name.rpartition(".")
        assert key_name in (hashed[node] if node else hashed)
