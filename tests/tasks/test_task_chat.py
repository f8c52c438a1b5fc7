"""Chat: from conversations to a corpus, a trained model, its samples, and task=chat."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.program import Program, command, environment, make_program, mostly_slow, read_history, read_record

from microgpt.data.conversations import build_chat_corpus
from microgpt.data.sources import Source, read_source
from microgpt.data.tokenizer import count_targets, token_id
from microgpt.errors import UserError

SMALL = (
    "mode=tensor", "backend=native", "data=chat", "style=classic", "model.n_embd=16", "model.n_layer=1",
    "model.block_size=64", "train.steps=30", "train.batch_size=4", "train.eval_documents=10", "sample.num_samples=3",
    "sample.max_new_tokens=12",
)  # fmt: skip


def conversation(*texts: str) -> str:
    roles = ("user", "assistant")
    return json.dumps([{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)])


def source(*lines: str) -> Source:
    return Source("chat", "chat.jsonl", "0" * 64, "\n".join(lines))


def corpus_of(*lines: str, val_fraction: float = 0.25, block_size: int = 32, loss_on: str = "assistant"):
    return build_chat_corpus(
        source(*lines), val_fraction=val_fraction, split_seed=0, block_size=block_size, loss_on=loss_on
    )


# The corpus


def test_a_conversation_is_entirely_in_one_part_of_the_split() -> None:
    lines = [conversation(f"q{n}", f"a{n}") for n in range(6)]
    lines += [lines[0], conversation("alone"), conversation("q", "a", "and?"), conversation("x" * 40, "y" * 40)]
    corpus = corpus_of(*lines)
    assert corpus.documents == 9
    assert corpus.conversations == {"skipped": 1, "trimmed": 1, "truncated": 1, "system_turns": 0}
    assert corpus.long_documents == 1
    assert (corpus.train.documents + corpus.val.documents, corpus.val.documents >= 2) == (9, True)
    decoded = [
        {corpus.tokenizer.decode(map(token_id, example)) for example in part.examples}
        for part in (corpus.train, corpus.val)
    ]
    assert not decoded[0] & decoded[1]
    assert set(corpus.questions) <= {f"q{n}" for n in range(6)} | {"q", "x" * 40}
    assert all(any(text.startswith(question[:20]) for text in decoded[1]) for question in corpus.questions)


def test_the_loss_is_on_the_answers_or_on_all_turns() -> None:
    lines = [conversation("hello", "hi"), conversation("who", "me", "ah", "yes")]
    answers, everything = (corpus_of(*lines, val_fraction=0, loss_on=loss_on) for loss_on in ("assistant", "all"))
    assert [count_targets(example) for example in answers.train.examples] == [3, 3 + 4]
    assert [count_targets(example) for example in everything.train.examples] == [12, 19]
    assert answers.train.tokens == 10
    assert answers.examples.targets.tolist() == [3, 7]
    assert answers.examples.positions.tolist() == [12, 19]
    targets = [answers.tokenizer.decode(t for t in example[1:] if t >= 0) for example in answers.train.examples]
    assert targets == ["hi", "meyes"]


def test_one_conversation_cannot_be_split() -> None:
    with pytest.raises(
        UserError, match=r"too small to split: 1 distinct conversation, of which data.val_fraction=0.25"
    ):
        corpus_of(conversation("a", "b"), conversation("a", "b"))


@pytest.mark.slow
def test_the_embedded_chat_fits_the_model_that_is_trained_on_it() -> None:
    corpus = build_chat_corpus(
        read_source("chat", None), val_fraction=0.1, split_seed=0, block_size=256, loss_on="assistant"
    )
    assert corpus.conversations == {"skipped": 0, "trimmed": 0, "truncated": 0, "system_turns": 0}
    assert corpus.documents > 1000
    assert corpus.tokenizer.vocab_size <= 96  # each occurs often enough to be learned
    assert len(corpus.questions) > 50


# Training, sampling, conversations


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    for program in make_program(tmp_path_factory.mktemp("chat")):
        program(*SMALL)
        yield program


def talk(program: Program, *lines: str, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    options = ("checkpoint=latest", "sample.max_new_tokens=8", "sample.seed=1", *arguments)
    return subprocess.run(
        command("task=chat", *options), cwd=program.folder, input="".join(f"{line}\n" for line in lines),
        capture_output=True, text=True, timeout=60, env=environment(),
    )  # fmt: skip


@pytest.mark.slow
def test_the_samples_of_a_run_answer_held_out_questions(trained: Program) -> None:
    record = read_record(trained.only_run())
    assert record["data"]["conversations"] == {
        "skipped": 0,
        "trimmed": 0,
        "truncated": record["data"]["long_documents"]["count"],
        "system_turns": 0,
    }
    assert len(record["samples"]) == 3
    assert all(re.fullmatch(r"user: .+ assistant: .{0,12}", sample) for sample in record["samples"])
    assert len({sample.split(" assistant: ")[0] for sample in record["samples"]}) == 3
    lines = read_history(trained.only_run())
    assert lines[-1]["val_loss"] < lines[0]["val_loss"] - 1
    meta = json.loads((trained.only_run() / "checkpoint" / "latest" / "meta.json").read_text())
    assert meta["special_tokens"] == ["user", "assistant", "end_turn"]
    assert meta["vocab_size"] == len(meta["chars"]) + 4


@pytest.mark.slow
def test_sample_prints_answers_and_info_the_special_tokens(trained: Program) -> None:
    done = trained("task=sample", "checkpoint=latest", "mode=tensor", "sample.prompt=hello", "sample.num_samples=2")
    assert done.stdout.count(": user: hello assistant: ") == 2
    info = trained("task=info", "checkpoint=latest").stdout
    assert re.search(r"^special tokens: +user assistant end_turn$", info, re.MULTILINE)


@mostly_slow(2, ("arguments", "sentence"), [
    (["task=sample", "checkpoint=latest"], "sample.prompt= is not allowed: a chat model needs a question"),
    (["data=chat", "style=futuristic"], "style=futuristic is not allowed: data=chat cannot be mixed with documents"),
    (["task=sample", "checkpoint=latest", "mode=tensor", "sample.bulk=true", "sample.prompt=hi"],
     "sample.bulk=true is not allowed: bulk sampling cannot detect the end of a chat model's answer"),
    (["data=chat", "style=classic", "data.long_documents=skip"], "data.long_documents=skip is not allowed"),
    (["data.loss_on=all"], "data.loss_on=all is not allowed: it requires data=chat"),
    (["data=chat", "style=classic", "data.loss_on=user"], "data.loss_on=user is not allowed: data.loss_on must be "),
    (["data=chat", "style=classic", "data.path=nix.jsonl"], "data.path=nix.jsonl cannot be read"),
    (["train.resume=latest", "style=classic"], "it was trained on chat tokens, but the data has plain text tokens"),
])  # fmt: skip
def test_a_mistake_is_one_sentence(trained: Program, arguments: list[str], sentence: str) -> None:
    done = trained(*arguments, expect=2)
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_conversation_through_pipes(trained: Program) -> None:
    done = talk(
        trained, "hello", "/temperature 0", "hello", "/clear", "hello", "", "/nix", "/temperature -1", "Ü", "/help"
    )
    assert done.returncode == 0
    answers = done.stdout.splitlines()
    assert len(answers) == 3 + 4
    assert answers[3].startswith("/temperature T")
    assert [line for line in done.stderr.splitlines() if line.startswith("(")] == [
        "(temperature 0)", "(new conversation)",
    ]  # fmt: skip
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors[0] == "error: /nix is not a command: use /help, /temperature, /clear or /quit"
    assert errors[1] == "error: temperature must be finite and >= 0, got -1"
    assert "user='Ü' has characters that the model does not know: 'Ü'" in errors[2]
    again = talk(trained, "hello", "/temperature 0", "hello", "/clear", "hello", "/quit", "never read")
    assert again.stdout.splitlines() == answers[:3]


@pytest.mark.slow
def test_a_closed_standard_input_is_an_empty_one(trained: Program) -> None:
    shell = f"{sys.executable} -m microgpt task=chat checkpoint=latest"
    ended = [
        subprocess.run(f"{shell} {stdin}", shell=True, cwd=trained.folder, capture_output=True, text=True, timeout=60)
        for stdin in ("<&-", "</dev/null")
    ]
    assert [(done.returncode, done.stderr) for done in ended] == [(0, ""), (0, "")]
    assert ended[0].stdout == ended[1].stdout


@pytest.mark.slow
def test_a_long_conversation_reports_the_dropped_tokens(trained: Program) -> None:
    done = talk(trained, *["what is your name?"] * 4)
    dropped = [int(number) for number in re.findall(r"tokens_dropped=(\d+)", done.stderr)]
    assert dropped == sorted(dropped)
    assert len(dropped) >= 2
    assert len(done.stdout.splitlines()) == 4


@pytest.mark.slow
def test_a_model_without_turns_is_refused(microgpt: Program) -> None:
    microgpt("experiment=debug", "style=classic")
    done = talk(microgpt, "hello")
    assert done.returncode == 2
    assert (
        done.stderr == "error: checkpoint=latest is not a chat model: task=chat needs a model trained with data=chat\n"
    )


@pytest.mark.slow
def test_a_conversation_on_a_terminal_streams_stops_and_ends(trained: Program) -> None:
    """Ctrl-C ends an answer but not the program; Ctrl-D ends the program."""
    terminal, theirs = pty.openpty()
    endless = (f"style.phrases=[{'a' * 20_000}]", "style.bias=1e6")  # an answer that takes a while
    options = ("checkpoint=latest", "sample.max_new_tokens=100000", *endless)
    process = subprocess.Popen(
        command("task=chat", *options), cwd=trained.folder, stdin=theirs, stdout=theirs, stderr=theirs,
        env=environment() | {"TERM": "dumb"}, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    said = ""

    def read_until(pattern: str, since: int) -> int:
        """Wait for a pattern in the output; return where it ends."""
        nonlocal said
        end = time.monotonic() + 30
        while (found := re.compile(pattern, re.DOTALL).search(said, since)) is None:
            assert time.monotonic() < end, said
            if select.select([terminal], [], [], 0.1)[0]:
                said += os.read(terminal, 65536).decode(errors="replace")
        return found.end()

    try:
        place = read_until("you: ", 0)
        os.write(terminal, b"hello.\n")
        place = read_until("microgpt: aaa", place)
        process.send_signal(signal.SIGINT)
        place = read_until(r"  \[stopped: Ctrl-C\]\r\nyou: ", place)
        time.sleep(0.5)  # the line editor receives a signal only while it waits for a key
        process.send_signal(signal.SIGINT)
        read_until(r"\(Ctrl-D or /quit quits\)\r\nyou: ", place)
        os.write(terminal, b"\x04")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["python", "torch"])
def test_every_engine_trains_a_chat_model_to_the_same_losses(trained: Program, microgpt: Program, backend: str) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    mode = "scalar" if backend == "python" else "tensor"
    others = [each for each in SMALL if not each.startswith(("mode", "backend", "train.steps", "sample.num"))]
    quick = (*others, "train.steps=4", "sample.num_samples=1", "schedule.total_steps=30")
    microgpt(*quick, f"mode={mode}", f"backend={backend}", "outputs_dir=other")
    microgpt(*quick, "mode=tensor", "backend=native", "backend.dtype=float64", "outputs_dir=native")
    ours, theirs = (read_history(microgpt.only_run(name)) for name in ("native", "other"))
    allowed = 1e-9 if backend == "python" else 1e-4
    for line, other in zip(ours, theirs, strict=True):
        assert line.get("loss") == pytest.approx(other.get("loss"), abs=allowed)
        assert line.get("val_loss") == pytest.approx(other.get("val_loss"), abs=allowed)


@pytest.mark.slow
def test_an_interrupted_chat_run_is_resumed(microgpt: Program) -> None:
    arguments = [each for each in SMALL if not each.startswith("train.steps")]
    arguments += ["train.steps=6000", "train.checkpoint_every=200", "train.eval_every=null"]
    assert microgpt.kill_after(0.5, *arguments, "outputs_dir=killed", from_first_step=True)
    microgpt(*arguments, "outputs_dir=killed")
    microgpt(*arguments, "outputs_dir=whole")
    weights = [
        microgpt.only_run(name) / "checkpoint" / "latest" / "weights.safetensors" for name in ("killed", "whole")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
def test_a_file_of_conversations_can_be_trained_on(microgpt: Program) -> None:
    folder = os.environ.get("MICROGPT_DATA_DIR")
    file = Path(folder or "", "oasst1_chat.jsonl")
    if folder is None or not file.is_file():
        pytest.skip("oasst1_chat.jsonl is looked for in the folder MICROGPT_DATA_DIR")
    microgpt(*[each for each in SMALL if "block" not in each], "model.block_size=256", f"data.path={file}")
    record = read_record(microgpt.only_run())
    assert record["data"]["documents"] == 1905
    assert record["data"]["vocab_size"] == 100
    assert record["data"]["conversations"] == {"skipped": 0, "trimmed": 759, "truncated": 1736, "system_turns": 0}
