"""The server under faults: kills, signals, failed starts, wrong keys."""

import hashlib
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi_offline", reason="task=serve needs the extra [serve]")
import numpy as np
from safetensors.numpy import load_file, save_file
from support.program import Program, make_program, mostly_slow
from support.server_process import (
    ACTIVE,
    COMPLETIONS,
    GENERATE,
    LONG,
    LONG_REQUESTS,
    STREAM,
    WHOLE,
    InBackground,
    Server,
    events,
    send,
    start_server,
    train_endless,
    train_names,
)

from microgpt.installation import install_command

pytestmark = pytest.mark.slow
LIBRARIES = ["fastapi", "fastapi_offline", "httptools", "prometheus_client", "uvicorn", "uvloop"]


@pytest.fixture(scope="module")
def names(shared_program: Program) -> Program:
    return train_names(shared_program)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    for program in make_program(tmp_path_factory.mktemp("endless")):
        yield train_endless(program)


def wait_for_refusal(server: Server) -> None:
    """Wait until new connections are refused, since a signal does not take effect immediately."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=30).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)
    raise AssertionError("new connections are still taken")


def validation_message(complaint: str) -> str:
    lines = complaint.strip().splitlines()
    assert len(lines) == 1, complaint
    assert lines[0].startswith("error: "), complaint
    return lines[0].removeprefix("error: ")


# Its end


def test_a_server_that_was_killed_serves_the_same_model_again(names: Program) -> None:
    found = []
    for _ in range(2):
        with start_server(names) as server, server.client() as client:
            texts = send(server, GENERATE, {"num_samples": 20, "seed": 3}).json()
            choices = send(server, COMPLETIONS, {"model": "gpt", "n": 5, "seed": 9}).json()
            found.append((client.get("/microgpt/v1/model").json(), texts, choices["choices"], choices["usage"]))
            found[-1] += (choices["system_fingerprint"],)
            server.stop(signal.SIGKILL)
    assert found[0] == found[1]
    assert len(set(found[0][1]["samples"])) > 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_requests_under_way_finish_and_no_other_begin(endless: Program, number: signal.Signals) -> None:
    whole, streamed = WHOLE | {"max_tokens": 30_000}, WHOLE | {"prompt": "", "max_tokens": 3_000}
    with start_server(endless, f"serve.max_new_tokens={LONG}") as server:
        waiting = [
            InBackground(lambda: send(server, GENERATE, whole)),
            InBackground(lambda: send(server, STREAM, streamed)),
        ]
        server.wait_for_metric(ACTIVE, 2)
        server.process.send_signal(number)
        wait_for_refusal(server)
        assert all(each.is_alive() for each in waiting), "the requests were over before the signal"
        text, stream = (each.wait() for each in waiting)
        assert len(text.json()["samples"][0]) == 30_000
        assert [event["type"] for event in events(stream)] == ["start", *["token"] * 3_000, "end"]
        assert server.process.wait(30) == 0, "the end after a signal is a good one"
        assert server.said().splitlines()[-1] == "stopped"
        assert server.complained() == ""


def test_requests_that_outlast_the_drain_are_told_so(endless: Program) -> None:
    with start_server(endless, "serve.drain=1", f"serve.max_new_tokens={LONG}") as server:
        waiting = [InBackground(lambda path=path, body=body: send(server, path, body)) for path, body in LONG_REQUESTS]
        server.wait_for_metric(ACTIVE, len(waiting))
        server.process.send_signal(signal.SIGTERM)
        answers = [each.wait() for each in waiting]
        assert [answer.status_code for answer in answers] == [503, 503, 200, 200]
        assert answers[0].json() == {"error": "the server is shutting down"}
        assert answers[1].json()["error"]["message"] == "the server is shutting down"
        assert events(answers[2])[-1] == {"type": "error", "error": "the server is shutting down"}
        assert events(answers[3])[-1]["error"]["message"] == "the server is shutting down"
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.complained()


# Its beginning


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["serve.host=no.such.host.invalid"], r"serve\.host=no\.such\.host\.invalid .* is not an address"),
        (["checkpoint=nowhere"], r"checkpoint=nowhere"),
        (["serve.host=192.0.2.1"], r"serve\.host=192\.0\.2\.1 serve\.port=0 cannot be used"),
        (["serve.port=65536"], r"serve\.port=65536 is not allowed"),
        (["serve.port=many"], r"serve\.port"),
        (["+serve.prot=1"], r"serve\.prot"),
        (["serve.max_active=0"], r"serve\.max_active=0"),
        (["serve.max_queue=-1"], r"serve\.max_queue=-1"),
        (["serve.timeout=0"], r"serve\.timeout=0"),
        (["serve.timeout=nan"], r"serve\.timeout=nan"),
        (["serve.drain=-1"], r"serve\.drain=-1"),
        (["serve.drain=inf"], r"serve\.drain=inf"),
        (["serve.api_key='two words'"], r"serve\.api_key=\*\*\*"),
        (["checkpoint=latest", "outputs_dir=empty"], r"checkpoint=latest.*outputs_dir=empty"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_wrong_start_is_one_sentence(names: Program, overrides: list[str], said: str) -> None:
    checkpoint = [] if any(each.startswith("checkpoint=") for each in overrides) else ["checkpoint=latest"]
    done = names("task=serve", "serve.port=0", *checkpoint, *overrides, expect=2)
    assert re.search(said, validation_message(done.stderr))
    assert done.stdout == ""


def test_a_port_that_is_in_use_is_one_sentence(names: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = names("task=serve", "checkpoint=latest", f"serve.port={port}", expect=2)
    assert re.search(rf"serve\.port={port} cannot be used: .*in use", validation_message(done.stderr))
    assert done.stdout == ""


def test_weights_that_are_no_numbers_are_not_served(names: Program, tmp_path: Path) -> None:
    names("task=export", "checkpoint=latest", f"export.path={tmp_path / 'copy'}")
    (file,) = (tmp_path / "copy").glob("*.safetensors")
    tensors = load_file(file)
    first = np.array(next(iter(tensors.values())))
    first.flat[0] = np.nan
    save_file(tensors | {next(iter(tensors)): first}, file)
    sums = tmp_path / "copy" / "checksums.json"  # or it would be refused as damaged
    sums.write_text(json.dumps({file.name: hashlib.sha256(file.read_bytes()).hexdigest()}))
    done = names("task=serve", "serve.port=0", f"checkpoint={tmp_path / 'copy'}", expect=2)
    assert "contains non-finite weights" in validation_message(done.stderr)


@mostly_slow(1, "library", ["fastapi", "uvicorn", "httptools", "uvloop", "prometheus_client", "fastapi_offline"])
def test_a_missing_extra_is_named_with_its_cure(
    microgpt: Program, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(microgpt.folder)  # the command depends on where the user is
    absent = f"raise ModuleNotFoundError('No module named {library}', name='{library}')"
    (microgpt.folder / f"{library}.py").write_text(absent)
    done = microgpt.process("task=serve", "checkpoint=latest", expect=2)
    assert validation_message(done.stderr) == f"task=serve needs {library}: {install_command('serve')}"


# Keys


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_with_a_key_what_computes_wants_it_and_nothing_prints_it(names: Program, given: str) -> None:
    key = "sk-4f1b-very-secret"
    arguments = [f"serve.api_key={key}"] if given == "argument" else []
    variables = {"MICROGPT_API_KEY": key} if given == "environment" else {}
    with start_server(names, *arguments, variables=variables) as server, server.client() as client:
        guarded = [
            ("GET", "/microgpt/v1/model", None), ("POST", GENERATE, {}), ("POST", STREAM, {"prompt": ""}),
            ("POST", "/microgpt/v1/attention", {"text": "a"}), ("GET", "/v1/models", None),
            ("GET", "/v1/models/gpt", None), ("POST", COMPLETIONS, {"model": "gpt"}),
        ]  # fmt: skip
        answers = []
        for wrong in (None, "Bearer sk-4f1b-very-secre", f"Basic {key}", "Bearer", f"Bearer {key}x", "Bearer é"):
            headers = {b"Authorization": wrong.encode()} if wrong else {}
            for method, path, body in guarded:
                answer = client.request(method, path, json=body, headers=headers)
                assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), (wrong, path)
                error = answer.json()["error"]
                assert "Authorization" in (error["message"] if path.startswith("/v1/") else error)
                answers.append(answer)
        for method, path, body in guarded:
            for kind in ("Bearer", "bearer"):
                answer = client.request(method, path, json=body, headers={"Authorization": f"{kind} {key}"})
                assert answer.status_code == 200, (path, answer.text)
                answers.append(answer)
        for path in ("/health", "/metrics", "/openapi.json", "/docs"):
            answers.append(client.get(path))
            assert answers[-1].status_code == 200
        assert not any(key in answer.text or key in str(answer.headers) for answer in answers)
        server.stop()
    assert key not in server.said() + server.complained()
    assert "API key required" in server.said()
