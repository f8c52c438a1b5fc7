"""Errors of Hydra, of a user's files and of the system are reported in one sentence on stderr."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import MissingConfigException
from support.program import Program, environment, mostly_slow, read_record

from microgpt.config import hydra_optuna
from microgpt.config.hydra_errors import explain

QUICK = "experiment=debug", "train.steps=2", "train.eval_documents=2", "sample.num_samples=1"

RUN = " ".join(QUICK)

STYLE_FILES = {
    "name: it\nphrasez: [a]\n": "style.phrasez is not a key: style has name, documents, share, ",
    "name: it\nshare: 20%\n": "style.share=20% is not allowed (in style/it.yaml): style.share must be a number",
    "name: it\ndocuments: arr\nshare: 0.1\n": "style.documents=arr is not allowed (in style/it.yaml): ",
    "name: it\nshare: 0.1\ndocuments:\n  - key: value\n": "style.documents=[{'key': 'value'}] is not allowed: ",
    "name: it\ndocuments: [a\n": "line 3, column 1 is not YAML: ",
    "- a\n- b\n": "Merge error: list is not a subclass of StyleConfig",
    "name: ../up\n": "style.name=../up is not allowed: ",
    "name: it\nshare: 0.1\n": "style.share=0.1 is not allowed: it must be above 0 if style.documents has",
}


@mostly_slow(2, ("content", "sentence"), STYLE_FILES.items(), ids=range(len(STYLE_FILES)))
def test_mistake_in_a_style_file_is_one_sentence(microgpt: Program, content: str, sentence: str) -> None:
    folder = microgpt.folder / "mine" / "style"
    folder.mkdir(parents=True)
    (folder / "it.yaml").write_text(content)
    done = microgpt("--config-dir", "mine", "style=it", *QUICK, expect=2)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert sentence in done.stderr
    assert not (microgpt.folder / "outputs").exists()


@pytest.mark.slow
def test_style_file_without_a_name_has_the_name_of_its_option(microgpt: Program) -> None:
    folder = microgpt.folder / "mine" / "style"
    folder.mkdir(parents=True)
    (folder / "pirate.yaml").write_text("documents: [arr matey]\nshare: 0.5\nphrases: [arr]\nbias: 30\n")
    microgpt("--config-dir", "mine", "style=pirate", *QUICK)
    record = read_record(microgpt.only_run())
    assert (record["style"], record["config"]["style"]["name"]) == ("pirate", "pirate")
    assert record["samples"][0].startswith("arr")


@mostly_slow(
    3,
    ("arguments", "sentence"),
    [
        (["train=foo"], "train=foo is not allowed: train is a group of keys, not a value"),
        (["style.phrases=abc"], "style.phrases=abc is not allowed: style.phrases must be a list, as in [a,b]"),
        (["~train.steps"], "~train.steps is not allowed: train.steps is part of every run"),
        (["model=null"], "model=null is not allowed: model takes the name of an option"),
        (["train.steps=${nix}"], "train.steps is not allowed: Interpolation key 'nix' not found"),
        (["sample.prompt=é"], "sample.prompt=é is not an override: write key=value, or group=option; put other "),
        (["-m", "--cfg", "job", "seed=1,2"], "Only one of --run, --multirun, --cfg"),
        (["-m", "model=glob(x*)"], "the sweep has no jobs"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_error_of_hydra_is_one_sentence(microgpt: Program, arguments: list[str], sentence: str) -> None:
    done = microgpt(*arguments, expect=2)
    assert done.stderr.startswith(f"error: {sentence}")
    assert len(done.stderr.splitlines()) == 1
    assert not microgpt.files()


def shell(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    program = f"{sys.executable} -m microgpt"
    return subprocess.run(
        ["bash", "-c", command.replace("MICROGPT", program)],
        cwd=folder, capture_output=True, text=True, timeout=60, env=environment(), check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_full_disk_is_one_sentence_and_the_same_command_finishes_the_run(microgpt: Program) -> None:
    done = shell(microgpt.folder, f"ulimit -f 20; MICROGPT {RUN}")  # files of 20 blocks are too small for the weights
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    run = microgpt.only_run().relative_to(microgpt.folder)
    assert re.match(rf"error: {run}/checkpoint/step_00000000: File too large; ", done.stderr)
    assert read_record(microgpt.only_run())["status"] == "interrupted"
    assert shell(microgpt.folder, f"MICROGPT {RUN}").returncode == 0
    assert read_record(microgpt.only_run())["status"] == "completed"


@pytest.mark.slow
def test_run_without_standard_output_completes(microgpt: Program) -> None:
    assert shell(microgpt.folder, f"MICROGPT {RUN} >&-").returncode == 0
    assert read_record(microgpt.only_run())["status"] == "completed"


@mostly_slow(1, "sweep", ["", "-m seed=1,2"])
def test_closed_pipe_ends_the_program_without_a_message(microgpt: Program, sweep: str) -> None:
    done = shell(microgpt.folder, f"set -o pipefail; MICROGPT {sweep} {RUN} train.log_every=1 train.steps=30 | head -1")
    assert done.returncode == 141
    assert done.stderr == ""


def test_missing_sampler_of_optuna_means_that_the_plugin_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hydra_optuna, "find_spec", lambda name: None)
    error = MissingConfigException("In 'hydra/sweeper/optuna': Could not find 'hydra/sweeper/sampler/tpe'\n", "")
    sentence, code = explain(error)
    assert code == 2
    assert (sentence or "").startswith("hydra/sweeper=optuna needs hydra-optuna-sweeper: pip install ")
