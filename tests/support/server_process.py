"""The server as a user starts it: a process on a free port of this machine, its address read from what it prints."""

import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from support.program import TIMEOUT, Program, command, environment

NAMES = (
    "mode=tensor", "backend=native", "data=names", "style=classic", "train.steps=300", "train.eval_documents=50",
    "sample.num_samples=0",
)  # fmt: skip
# Of text the end of a document is never a target: greedy texts go on for as long as they may.
ENDLESS = (
    "mode=tensor", "backend=native", "data=text", "data.path=lines.txt", "data.format=stream", "style=classic",
    "train.steps=60", "model.block_size=32", "train.eval_documents=5", "sample.num_samples=0",
)  # fmt: skip

ACTIVE, WAITING = "microgpt_requests_active", "microgpt_requests_waiting"
GENERATE, COMPLETIONS, STREAM = "/microgpt/v1/generate", "/v1/completions", "/microgpt/v1/stream"
LONG = 100_000  # tokens that take seconds, of the endless model with serve.max_new_tokens=LONG
WHOLE = {"temperature": 0, "max_tokens": LONG}
LONG_STREAMS: list[tuple[str, dict[str, Any]]] = [
    (STREAM, WHOLE | {"prompt": "", "candidates": 0}),
    (COMPLETIONS, WHOLE | {"model": "gpt", "seed": 1, "stream": True}),
]
LONG_REQUESTS = [(GENERATE, WHOLE), (COMPLETIONS, WHOLE | {"model": "gpt", "seed": 1}), *LONG_STREAMS]


@dataclass
class Server:
    """A running server. What it says goes into files, so that no pipe fills up."""

    process: subprocess.Popen[str]
    url: str
    output: Path
    errors: Path

    def client(self, **settings: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=TIMEOUT, trust_env=False, **settings)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def said(self) -> str:
        return self.output.read_text()

    def complained(self) -> str:
        return self.errors.read_text()

    def metric(self, name: str) -> float:
        """A figure of /metrics by its whole name, labels included."""
        with self.client() as client:
            lines = client.get("/metrics").text.splitlines()
        (line,) = [line for line in lines if line.startswith(name + " ")]
        return float(line.rpartition(" ")[2])

    def wait_for_metric(self, name: str, value: float, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while (found := self.metric(name)) != value:
            assert time.monotonic() < end, f"{name} is {found}, not {value}, after {seconds} s"
            time.sleep(0.01)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, where it still runs, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=TIMEOUT)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=TIMEOUT)


def start_server(program: Program, *arguments: str, variables: Mapping[str, str] | None = None) -> Server:
    """`task=serve` on a free port of 127.0.0.1, with the program's latest checkpoint unless `arguments` name one."""
    number = len(program.started)
    output, errors = program.folder / f"serve{number}.out", program.folder / f"serve{number}.err"
    with output.open("w") as out, errors.open("w") as err:
        process = subprocess.Popen(
            command("task=serve", "checkpoint=latest", "serve.port=0", *arguments),
            cwd=program.folder,
            stdout=out,
            stderr=err,
            text=True,
            env={**environment(), **(variables or {})},
        )
    program.started.append(process)
    return Server(process, printed_url(process, output, errors), output, errors)


def printed_url(process: subprocess.Popen[str], output: Path, errors: Path) -> str:
    """The address on its line, once that stands there whole."""
    end = time.monotonic() + TIMEOUT
    while not (found := re.search(r"^serving .* on (http://\S+) .*\n", output.read_text(), re.MULTILINE)):
        assert process.poll() is None, f"the server ended with {process.poll()}: {errors.read_text()[-3000:]}"
        assert time.monotonic() < end, "the server has not said where it is"
        time.sleep(0.01)
    return found[1]


def train_names(program: Program) -> Program:
    """A tiny model of names in the program's folder, trained in a second."""
    program(*NAMES)
    return program


def train_endless(program: Program) -> Program:
    """A tiny model whose greedy texts end with max_tokens alone: for requests that are to take long."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    (program.folder / "lines.txt").write_text("\n".join(letters[n:] + letters[:n] for n in range(26)) * 4)
    program(*ENDLESS)
    return program


class InBackground(threading.Thread):
    """A function's result, once it is joined."""

    def __init__(self, function: Callable[[], Any]):
        super().__init__(daemon=True)
        self.function = function
        self.start()

    def run(self) -> None:
        self.result = self.function()

    def wait(self) -> Any:
        self.join(60)
        assert not self.is_alive(), "no answer in a minute"
        return self.result


def send(server: Server, path: str, body: Any, **settings: Any) -> httpx.Response:
    with server.client() as client:
        return client.post(path, json=body, **settings)


def events(answer: httpx.Response) -> list[Any]:
    """What the events of a stream say; [DONE] as it is."""
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
