"""A user error gives one sentence on stderr, exit code 2 and no files; in a sweep, it fails only its job."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.program import RECORD_KEYS, Program, make_program, mostly_slow, read_record

CHECKPOINT_OF_A_RUN = "experiment=debug", "train.steps=1", "style=classic", "sample.num_samples=0"


def refused(program: Program, *arguments: str) -> str:
    """Return the error message of a command that must fail and leave no files."""
    before = program.files()
    done = program(*arguments, expect=2)
    assert program.files() == before
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr.removeprefix("error: ").rstrip("\n")


@mostly_slow(
    6,
    ("arguments", "sentence"),
    [
        (["train.step=3"], "train.step is not a key: train has steps, "),
        (["hydra.run.dri=x"], "hydra.run.dri is not a key: hydra.run has dir; did you mean hydra.run.dir?"),
        (["model.n_embd=18"], "model.n_embd=18 is not allowed: it must be a multiple of model.n_head=4"),
        (["-m", "seed=1,abc"], "seed=abc is not allowed: seed must be an integer"),
        (["mode=tensor", "backend=native", "backend.device=cuda"], "backend.device=cuda is not allowed"),
        (["data=text", "data.path=missing.txt"], "data.path=missing.txt cannot be read: No such file"),
        (["task=sample", "checkpoint=latest"], "checkpoint=latest: no run in outputs_dir=outputs has a checkpoint"),
        (["train.steps=abc"], "train.steps=abc is not allowed: train.steps must be an integer"),
        (["train.steps"], "train.steps is not an override: "),
        (["seed=1,2"], "seed=1,2 has several values: add -m "),
        (
            ["model=lstm"],
            "model=lstm is not an option: model must be one of bigram, gpt, gpt2, gpt_chat, ",
        ),
        (["train.steps=-1"], "train.steps=-1 is not allowed: train.steps must be at least 0"),
        (["sample.temperature=nan"], "sample.temperature: temperature must be finite and >= 0, got nan"),
        (["seed=-1"], "seed=-1 is not allowed: seed must be at least 0"),
        (["sample.prompt=aXYa"], "sample.prompt='aXYa' has characters that the model does not know: 'X' 'Y' "),
        (["sample.prompt=abcdefghijklmnop"], "prompt token count 17 exceeds max prompt tokens 16"),
        (["task=sample", "checkpoint=x", "model.n_embd=8"], "model cannot be changed with task=sample"),
    ],
    ids=lambda part: part[-1] if isinstance(part, list) else "sentence",
)
def test_mistake_is_one_sentence_and_leaves_no_files(microgpt: Program, arguments: list[str], sentence: str) -> None:
    assert refused(microgpt, *arguments).startswith(sentence)


@mostly_slow(
    1,
    ("content", "sentence"),
    [
        (b"", "data.path=input.txt is empty"),
        (b"anna\n\xff\n", "data.path=input.txt is not UTF-8 text: byte 0xff at offset 5"),
        (b"anna\nanna\n", "data.path=input.txt is too small to split: 1 distinct document, "),
    ],
    ids=["empty", "not UTF-8", "one document"],
)
def test_unusable_file_is_refused(microgpt: Program, content: bytes, sentence: str) -> None:
    (microgpt.folder / "input.txt").write_bytes(content)
    assert refused(microgpt, "data=text", "data.path=input.txt").startswith(sentence)


def test_unwritable_outputs_dir_is_refused(microgpt: Program) -> None:
    (microgpt.folder / "file").touch()
    assert refused(microgpt, "outputs_dir=file/below") == "outputs_dir=file/below cannot be written: Not a directory"


@pytest.mark.slow
def test_unwritable_outputs_dir_of_a_sweep_is_refused(microgpt: Program) -> None:
    (microgpt.folder / "file").touch()
    assert (
        refused(microgpt, "-m", "seed=1,2", "outputs_dir=file") == "outputs_dir=file cannot be written: Not a directory"
    )


@pytest.mark.slow
def test_missing_folder_of_train_resume_is_named_by_its_key(microgpt: Program) -> None:
    assert refused(microgpt, "train.resume=nowhere").startswith("train.resume=nowhere ")


def damage_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.slow
def test_damaged_checkpoint_is_refused(microgpt: Program) -> None:
    microgpt(*CHECKPOINT_OF_A_RUN)
    run = microgpt.only_run()
    damage_a_byte(run / "checkpoint" / "latest" / "weights.safetensors")
    sentence = refused(microgpt, "task=sample", "checkpoint=latest")
    assert "is damaged: weights.safetensors does not match its SHA-256 in checksums.json" in sentence
    (run / "checkpoint" / "latest" / "weights.safetensors").unlink()
    assert refused(microgpt, "task=sample", f"checkpoint={run}").endswith("damaged: weights.safetensors is missing")


SWEEP = ("-m", "experiment=debug", "train.steps=2", "train.eval_documents=5", "sample.num_samples=1")


def failed_job_of_a_sweep(program: Program, *arguments: str) -> dict[str, object]:
    """Return the record of the second of three jobs. The others must complete, and the tables must have all three."""
    done = program(*SWEEP, *arguments, expect=2)
    assert "Traceback" not in done.stderr
    first, second, third = (read_record(job) for job in program.jobs())
    assert (first["status"], second["status"], third["status"]) == ("completed", "failed", "completed")
    assert f"job 1: error: {second['error']}\n" in done.stderr
    table = (program.folder / "results" / "runs_style-futuristic.jsonl").read_text().splitlines()
    assert len(table) == 3
    assert (program.folder / "results" / "runs_style-futuristic.csv").is_file()
    return second


@pytest.fixture(scope="module")
def sweep_with_a_mistake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    for program in make_program(tmp_path_factory.mktemp("sweep")):
        yield failed_job_of_a_sweep(program, "model.n_embd=8,18,4")


@pytest.mark.slow
def test_mistake_in_one_job_of_a_sweep_fails_only_that_job(sweep_with_a_mistake: dict[str, object]) -> None:
    sentence = "model.n_embd=18 is not allowed: it must be a multiple of model.n_head=4"
    assert sweep_with_a_mistake["error"] == sentence


@pytest.mark.slow
def test_record_of_a_failed_job_has_the_keys_of_every_record(sweep_with_a_mistake: dict[str, object]) -> None:
    assert RECORD_KEYS - set(sweep_with_a_mistake) == set()


@pytest.mark.slow
def test_mistake_that_json_cannot_hold_fails_only_its_job(microgpt: Program) -> None:
    record = failed_job_of_a_sweep(microgpt, "sample.temperature=0.5,nan,1")
    assert record["error"] == "sample.temperature: temperature must be finite and >= 0, got nan"


@pytest.mark.slow
def test_unusable_file_fails_only_its_job(microgpt: Program) -> None:
    (microgpt.folder / "names.txt").write_text("anna\nbea\nclara\ndora\nemma\nfrida\n")
    (microgpt.folder / "more.txt").write_text("gina\nhanna\nida\njana\n")
    sweep = "data=text", "data.path=names.txt,missing.txt,more.txt", "data.val_fraction=0.3"
    record = failed_job_of_a_sweep(microgpt, *sweep)
    assert record["error"] == "data.path=missing.txt cannot be read: No such file or directory"


@pytest.mark.slow
def test_run_that_diverges_in_a_sweep_fails_only_its_job(microgpt: Program) -> None:
    microgpt(*SWEEP, "train.checkpoint_every=1", "optim.lr=1e300,0.01", expect=1)
    statuses = [read_record(job)["status"] for job in microgpt.jobs()]
    assert statuses == ["failed", "completed"]


@pytest.mark.slow
def test_job_that_fails_where_it_was_completed_before_is_recorded_beside_it(microgpt: Program) -> None:
    file = microgpt.folder / "input.txt"
    file.write_text("anna\nbea\nclara\n")
    (microgpt.folder / "other.txt").write_text("gina\nhanna\nida\n")
    command = *SWEEP[:3], SWEEP[4], "data=text", "data.path=input.txt,other.txt", "data.val_fraction=0"
    microgpt(*command)
    file.unlink()
    microgpt(*command, expect=2)
    microgpt(*command, expect=2)
    statuses = {job.name: read_record(job)["status"] for job in microgpt.jobs()}
    assert {statuses.pop("0"), statuses.pop("1")} == {"completed"}
    assert set(statuses.values()) == {"failed"}


@pytest.mark.slow
def test_value_that_does_not_compose_refuses_the_sweep_before_it_starts(microgpt: Program) -> None:
    done = microgpt(*SWEEP, "seed=1,abc", expect=2)
    assert done.stderr == "error: seed=abc is not allowed: seed must be an integer\n"
    assert not list(microgpt.folder.rglob("run.json"))
