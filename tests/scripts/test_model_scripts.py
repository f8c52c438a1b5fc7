"""measure_style.py, probe_chat.py and measure_export.py: their tables of tiny models, and their errors."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from support.program import SCRIPTS, Program, load_script, make_program

TINY = ("model.n_embd=8", "model.n_head=2", "train.steps=2", "train.eval_documents=5", "sample.num_samples=0")
STYLE, CHAT, EXPORT = "measure_style.py", "probe_chat.py", "measure_export.py"
QUICK_EXPORT = ("--letters", "1", "--longer", "6", "--eval-documents", "20", "--backend", "python", "--without-onnx")


def run(script: str, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == expect, f"exit code {done.returncode}: {done.stdout}\n{done.stderr}"
    return done


def rows(table: str) -> list[list[str]]:
    """The cells of all Markdown rows but the lines under headings."""
    lines = [line for line in table.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def module(request: pytest.FixtureRequest) -> ModuleType:
    """The script that a test names with indirect parameters."""
    return load_script(Path(request.param).stem)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    yield from make_program(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def names(program: Program) -> str:
    """A model of the embedded names with the style that has phrases."""
    program(*TINY, "outputs_dir=names")
    return str(program.only_run("names"))


@pytest.fixture(scope="module")
def chat(program: Program) -> str:
    """A chat model that knows all letters of the embedded set, and is small enough for plain Python."""
    letters = "".join(sorted({*map(chr, range(32, 127))}))
    talk = [{"role": "user", "content": letters}, {"role": "assistant", "content": "Ok."}]
    lines = [json.dumps([{**talk[0], "content": f"{n}{letters}"}, talk[1]]) for n in range(8)]
    (program.folder / "chat.jsonl").write_text("\n".join(lines))
    arguments = ("data=chat", "data.path=chat.jsonl", "style=classic", "model.block_size=16", "outputs_dir=chat")
    program(*TINY, *arguments, "model.n_embd=2", "model.n_head=1")
    return str(program.only_run("chat"))


@pytest.fixture(scope="module")
def plain(program: Program) -> str:
    """A model of another text, without a style."""
    (program.folder / "text.txt").write_text("\n".join("ab" * n for n in range(1, 8)))
    program(*TINY, "data=text", "data.path=text.txt", "style=classic", "outputs_dir=plain")
    return str(program.only_run("plain"))


@pytest.mark.slow
def test_the_share_of_phrases_increases_with_the_bias(names: str) -> None:
    done = run(STYLE, "--checkpoint", names, "--samples", "4", "--bias", "0", "1000")
    assert rows(done.stdout) == [["bias", "0", "1000"], ["phrase", "0 %", "100 %"]]
    assert done.stderr.splitlines() == ["style.bias=0: 0.0%", "style.bias=1000: 100.0%"]


@pytest.mark.slow
def test_the_default_model_is_trained_and_its_phrases_increase_with_the_bias() -> None:
    heading, found = rows(run(STYLE, "--samples", "100", "--bias", "0", "3", "5").stdout)
    shares = [int(cell.removesuffix(" %")) for cell in found[1:]]
    assert heading == ["bias", "0", "3", "5"]
    assert shares == sorted(shares)
    assert shares[0] <= 2 < shares[1] < 60 < shares[2]


@pytest.mark.slow
def test_an_untrained_model_has_every_answer_wrong(chat: str) -> None:
    done = run(CHAT, chat, "--backend", "python", "--talks", "2", "--turns", "3", "--wrong")
    found = rows(done.stdout)
    singles = dict(found[1:21])
    assert singles["sums, a wording that is taught"] == "0/200"
    assert singles["all"] == "0/1223"
    asked = sum(int(cell.split("/")[1]) for cell in singles.values())
    assert asked == 2 * 1223, "the kinds add up to all"
    head, *talks = found[21 : next(i for i, row in enumerate(found) if row[0] == "kind")]
    assert head[0] == "2 talks of 3 turns"
    assert sum(int(cell.split("/")[1]) for cell in talks[-1][1:] if cell) == 2 * 3
    assert len(found) == 1 + 20 + 1 + len(talks) + 1 + 1223 + 2 * 3, "each wrong answer has a row"


@pytest.mark.parametrize("module", [CHAT], indirect=True)
def test_right_answers_are_counted_as_right(module: ModuleType, monkeypatch, capsys) -> None:
    """Talks too: names that are in sight, and names that are out of it."""
    asker = module.Asker(module.Random(module.TALKS_SEED))
    probes = iter([*module.singles(), *(asker.ask() for _ in range(40))])

    def oracle(trained, turns):
        dropped = sum(turn.tokens for turn in turns[:-5])  # two exchanges and the question are in sight
        probe = next(probes)
        assert probe.question == turns[-1].content
        return module.resolve(probe, module.in_sight(turns, dropped))[1], dropped

    monkeypatch.setattr(module, "answer", oracle)
    monkeypatch.setattr(module, "load", lambda checkpoint, backend: None)
    assert module.main(["any", "--talks", "1", "--turns", "40"]) == 0
    found = rows(capsys.readouterr().out)
    talks = {row[0]: row[1:] for row in found[21:]}
    assert found[20] == ["all", "1223/1223"]
    assert talks["all"] == ["3/3", "37/37"]
    assert {"name asked for, in sight", "name asked for, not in sight", "introduction"} <= talks.keys()


@pytest.mark.parametrize("module", [CHAT], indirect=True)
def test_dropped_turns_do_not_decide_the_right_answer(module: ModuleType) -> None:
    turns = [module.Turn("user", "abc"), module.Turn("assistant", "Nice to meet you, Bo."), module.Turn("user", "hi")]
    assert [len(module.in_sight(turns, dropped)) for dropped in (0, 5, 28)] == [3, 2, 1]
    probe = module.Probe("name", "who am I?", None)
    assert module.resolve(probe, turns) == ("name, in sight", "Your name is Bo.")
    assert module.resolve(probe, turns[2:]) == ("name, not in sight", "You have not told me your name yet.")


@pytest.mark.slow
def test_exports_of_a_tiny_model_have_their_row(names: str) -> None:
    heading, found = rows(run(EXPORT, "--checkpoint", names, *QUICK_EXPORT).stdout)
    assert len(heading) == len(found) == 7
    assert found[0] == names
    assert found[1].endswith(" of 27")
    assert found[2].endswith(" of 6")
    assert 0 < float(found[4]) < 0.05, "a logit changes, and little"
    assert 0 < float(found[5]) < 0.01
    assert found[6] == ""


@pytest.mark.slow
def test_an_onnx_graph_is_compared_or_the_missing_library_named(names: str) -> None:
    done = run(EXPORT, "--checkpoint", names, *QUICK_EXPORT[:-1])
    cell = rows(done.stdout)[1][6]
    if cell:
        assert 0 <= float(cell) < 1e-5
    else:
        assert re.fullmatch(r"ONNX is not measured: .*pip install .*\n", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "module", "option", "sentence"), [
    ("nowhere", STYLE, ["--checkpoint"], "checkpoint=nowhere is not a checkpoint"),
    ("nowhere", CHAT, [], "checkpoint=nowhere is not a checkpoint"),
    ("nowhere", EXPORT, ["--checkpoint"], "checkpoint=nowhere is not a checkpoint"),
    ("plain", STYLE, ["--checkpoint"], "has a style without phrases"),
    ("chat", STYLE, ["--checkpoint"], "is a chat model"),
    ("names", CHAT, ["--backend", "python"], "is not a chat model"),
    ("plain", EXPORT, ["--checkpoint"], "is not a model of the bundled names"),
    ("chat", EXPORT, ["--checkpoint"], "is not a model of the bundled names"),
], indirect=["module"])  # fmt: skip
def test_an_unsuitable_model_is_one_sentence(
    request: pytest.FixtureRequest, model: str, module: ModuleType, option: list[str], sentence: str, capsys
) -> None:
    path = model if model == "nowhere" else request.getfixturevalue(model)
    assert module.main([*option, path]) == 2
    out, err = capsys.readouterr()
    assert sentence in err
    assert err.startswith("error: ")
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.slow
@pytest.mark.parametrize("script", [STYLE, CHAT, EXPORT])
def test_the_process_ends_with_exit_code_2(script: str) -> None:
    done = run(script, *([] if script == CHAT else ["--checkpoint"]), "nowhere", expect=2)
    assert re.fullmatch(r"error: checkpoint=nowhere is not a checkpoint.*\n", done.stderr)


@pytest.mark.parametrize(("module", "arguments", "sentence"), [
    (STYLE, ["--samples", "0"], "--samples 0 is not allowed: it must be 1 or more"),
    (STYLE, ["--bias", "0", "nan"], "--bias nan is not allowed: it must be finite"),
    (STYLE, ["--temperature", "-1"], "--temperature -1 is not allowed: it must be finite and at least 0"),
    (CHAT, ["any", "--turns", "0"], "--turns 0 is not allowed: it must be 1 or more"),
    (CHAT, ["any", "--talks", "-1"], "--talks -1 is not allowed: it must be 0 or more"),
    (EXPORT, ["--letters", "-1"], "--letters -1 is not allowed: it must be 0 or more"),
    (EXPORT, ["--longer", "0"], "--longer 0 is not allowed: it must be 1 or more"),
    (EXPORT, ["--eval-documents", "0"], "--eval-documents 0 is not allowed: it must be 1 or more"),
], indirect=["module"])  # fmt: skip
def test_an_invalid_number_is_one_sentence(module: ModuleType, arguments, sentence: str, capsys) -> None:
    assert module.main(arguments) == 2
    assert capsys.readouterr() == ("", f"error: {sentence}\n")
