"""Measure task=serve: requests and tokens per second for several numbers of clients, and the latency of /health.

The upper limit is a bare route of the same framework that checks the same body, with the same HTTP parser and event
loop; a second bare route uses the parser and event loop of uvicorn without extras (h11, asyncio). --earlier CHECKOUT
also measures the server of another checkout. All servers run at the same time and are measured one after the other, in
rounds; figures are medians over the rounds, and ratios are medians of the ratios within each round. wrk generates the
load on the same machine (apt-get install wrk, brew install wrk), with one connection per client, which sends its next
request as soon as the last one is answered. The CPU time is that of the server's process, whatever else runs.

python scripts/benchmark_serve.py --seconds 3 --rounds 5 --earlier path/to/checkout
"""

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
import psutil

from microgpt.errors import UserError

NAMES = ["data=names", "style=classic", "train.steps=300"]
CHAT = ["data=chat", "model=gpt_chat", "style=classic", "train.steps=20"]  # 128 features, 4 layers, block 256
QUICK = ["mode=tensor", "train.eval_documents=20", "sample.num_samples=0"]
HELLO = '{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 32, "temperature": 1.0, "seed": %d}'
CHAT_STREAM = '{"model": "gpt_chat", "stream": true, ' + HELLO[1:]
NAME = '{"seed": %d}'
SATURATING = '{"num_samples": 50, "seed": %d}'
PROBE_SECONDS = 0.01  # between two requests to /health
LUA = """
local n = 0
request = function()
  n = n + 1
  return wrk.format("POST", "PATH", {["Content-Type"] = "application/json"}, string.format('BODY', n))
end
done = function(summary, latency, requests)
  local e = summary.errors
  print(string.format('{"requests": %d, "us": %d, "p50": %f, "p90": %f, "p99": %f, "refused": %d, "lost": %d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(90), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True)
class Endpoint:
    """The request that some rows of the table send; `%d` in the body is replaced with a new number in each request."""

    name: str
    model: str
    path: str
    body: str
    clients: tuple[int, ...]


ONE_NAME = Endpoint("one name", "names", "/microgpt/v1/generate", NAME, (1, 16, 64))
ENDPOINTS = [
    ONE_NAME,
    Endpoint("ten names", "names", "/microgpt/v1/generate", '{"num_samples": 10, "seed": %d}', (64,)),
    Endpoint("one name, streamed", "names", "/microgpt/v1/stream", '{"prompt": "", "seed": %d}', (64,)),
    Endpoint("chat: an answer", "chat", "/microgpt/v1/chat", HELLO, (16,)),
    Endpoint("chat: an answer, streamed", "chat", "/v1/chat/completions", CHAT_STREAM, (16,)),
]
BARE = {"bare route": ("httptools", "uvloop"), "bare route on h11, asyncio": ("h11", "asyncio")}  # parser, event loop
SATURATED = [
    ("names", "", "", 0),
    ("names", "/microgpt/v1/generate", SATURATING, 64),
    ("names", "/microgpt/v1/generate", SATURATING, 300),
    ("names", "/microgpt/v1/generate", SATURATING, 400),
    ("chat", "/microgpt/v1/chat", HELLO, 64),
    ("chat", "/microgpt/v1/chat", HELLO, 300),
]


@dataclass(frozen=True)
class Server:
    url: str
    process: psutil.Process

    def cpu(self) -> float:
        """Return the seconds of CPU time so far, which depend little on other programs on the machine."""
        times = self.process.cpu_times()
        return times.user + times.system


@contextmanager
def serving(program: Sequence[str], folder: Path, checkout: Path | None = None) -> Iterator[Server]:
    """Run a server, of another checkout if one is given; yield the server once it has printed its address."""
    variables = {"PYTHONPATH": str(checkout)} if checkout else {}
    process = subprocess.Popen(
        [sys.executable, *program],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **harness.KEEPS_MODULES, **variables},
    )
    assert process.stdout is not None
    try:
        url = next(found[0] for line in process.stdout if (found := re.search(r"http://127[^\s]+", line)))
        yield Server(url, psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def task_serve(model: str) -> list[str]:
    return ["-m", "microgpt", "task=serve", f"outputs_dir={model}", "checkpoint=latest", "serve.port=0"]


def bare(parser: str, loop: str) -> None:
    """Serve with only the framework."""
    import uvicorn
    from fastapi import FastAPI

    from microgpt.config.task_keys import ServeConfig
    from microgpt.serve.microgpt_schemas import GenerateAnswer, GenerateRequest
    from microgpt.serve.server import listen

    app = FastAPI()

    @app.post(ONE_NAME.path)
    async def checked(request: GenerateRequest) -> GenerateAnswer:
        return GenerateAnswer(samples=["anna"])

    with listen(ServeConfig(port=0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        options: dict[str, Any] = {"http": parser, "loop": loop, "ws": "none", "access_log": False, "log_config": None}
        uvicorn.Server(uvicorn.Config(app, **options)).run(sockets=[listener])


def start_load(url: str, path: str, body: str, clients: int, seconds: float, folder: Path) -> subprocess.Popen[str]:
    script = folder / "load.lua"
    script.write_text(LUA.replace("PATH", path).replace("BODY", body))
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "60s", "-s", str(script), url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def figures(load: subprocess.Popen[str]) -> dict[str, float]:
    """Return the measurements of wrk, with times in milliseconds."""
    found = json.loads(load.communicate()[0].strip().splitlines()[-1])
    times = {key: found[key] / 1000 for key in ("p50", "p90", "p99")}
    return {**found, **times, "rate": found["requests"] / found["us"] * 1e6}


def drawn_tokens(url: str) -> float:
    """Return the number of tokens generated so far; 0 for a bare route."""
    try:
        with urllib.request.urlopen(f"{url}/metrics") as page:
            found = re.search(r'^microgpt_tokens_total{kind="drawn"} (\S+)', page.read().decode(), re.MULTILINE)
    except urllib.error.HTTPError:
        found = None
    return float(found[1]) if found else 0.0


def measure(server: Server, endpoint: Endpoint, clients: int, seconds: float, folder: Path) -> dict[str, float]:
    before, start, cpu = drawn_tokens(server.url), time.perf_counter(), server.cpu()
    found = figures(start_load(server.url, endpoint.path, endpoint.body, clients, seconds, folder))
    found["cpu"] = (server.cpu() - cpu) / found["requests"] * 1000
    found["tokens"] = (drawn_tokens(server.url) - before) / (time.perf_counter() - start)
    return found


def probe_health(url: str, seconds: float) -> list[float]:
    """Return the milliseconds of each request to /health, each on a new connection."""
    address, times, end = url.removeprefix("http://"), [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        connection.close()
        times.append((time.perf_counter() - start) * 1000)
        time.sleep(PROBE_SECONDS)
    return times


def median(found: Sequence[dict[str, float]], key: str) -> float:
    return statistics.median(each[key] for each in found)


def throughput(endpoints: Sequence[Endpoint], seconds: float, rounds: int, folder: Path, earlier: Path | None) -> None:
    heading = (
        "endpoint | clients | server | requests/s | tokens/s | p50 ms | p99 ms | CPU ms/request | refused, lost | "
        "requests/s of the bare route's | CPU of the bare route's"
    )
    print(harness.table(heading.split(" | "), []))
    for endpoint in endpoints:
        with ExitStack() as stack:
            programs: dict[str, tuple[list[str], Path | None]] = {"microgpt": (task_serve(endpoint.model), None)}
            if earlier:
                programs["earlier microgpt"] = task_serve(endpoint.model), earlier
            if endpoint is ONE_NAME:
                me = str(Path(__file__).resolve())
                programs |= {name: ([me, "--bare", *stack_of], None) for name, stack_of in BARE.items()}
            servers = {
                name: stack.enter_context(serving(program, folder, checkout))
                for name, (program, checkout) in programs.items()
            }
            for server in servers.values():
                measure(server, endpoint, 4, 1, folder)  # warm-up
            for clients in endpoint.clients:
                found: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
                for number in range(rounds):
                    for name in harness.in_turn(list(servers), number):
                        found[name].append(measure(servers[name], endpoint, clients, seconds, folder))
                for name in servers:
                    print(harness.line(row_of(endpoint.name, clients, name, found)), flush=True)


def row_of(endpoint: str, clients: int, name: str, found: dict[str, list[dict[str, float]]]) -> list[object]:
    own, bare = found[name], found.get(next(iter(BARE)))
    tokens = f"{median(own, 'tokens'):,.0f}" if name not in BARE else ""
    times = [f"{median(own, key):.2f}" for key in ("p50", "p99", "cpu")]
    lost = ", ".join(f"{sum(each[key] for each in own):.0f}" for key in ("refused", "lost"))
    ratios = [
        f"{statistics.median(one[key] / other[key] for one, other in zip(own, bare, strict=True)):.2f}" if bare else ""
        for key in ("rate", "cpu")
    ]
    return [endpoint, clients, name, f"{median(own, 'rate'):,.0f}", tokens, *times, lost, *ratios]


def health(models: Sequence[str], seconds: float, rounds: int, folder: Path) -> None:
    """Measure the latency of /health over the requests of all rounds, with load and, for comparison, without load."""
    heading = "load | clients | /health p50 ms | p99 ms | most ms | questions | answers/s | of them 429"
    print("\n" + harness.table(heading.split(" | "), []))
    for name, path, body, clients in SATURATED:
        if name not in models:
            continue
        times: list[float] = []
        loaded: list[dict[str, float]] = []
        with serving(task_serve(name), folder) as server:
            for _ in range(rounds):
                load = start_load(server.url, path, body, clients, seconds + 1, folder) if clients else None
                time.sleep(0.5)
                times += probe_health(server.url, seconds)
                if load:
                    loaded.append(figures(load))
        refused, sent = (sum(each[key] for each in loaded) for key in ("refused", "requests"))
        rates = [f"{median(loaded, 'rate'):,.0f}", f"{refused / max(sent, 1):.0%}"] if loaded else ["", ""]
        found = [f"{each:.1f}" for each in np.quantile(times, [0.5, 0.99, 1.0])]
        print(harness.line([f"{name}{path}", clients, *found, len(times), *rates]), flush=True)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--seconds", type=harness.at_least(1), default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["names", "chat"], choices=["names", "chat"])
    parser.add_argument("--parts", nargs="+", default=["throughput", "health"], choices=["throughput", "health"])
    parser.add_argument("--earlier", type=Path, metavar="CHECKOUT", help="another checkout of this project")
    parser.add_argument("--bare", nargs=2, help=argparse.SUPPRESS)
    chosen: Any = parser.parse_args()
    if chosen.bare:
        bare(*chosen.bare)
        return
    if shutil.which("wrk") is None:
        raise UserError("wrk is not installed: run apt-get install wrk or brew install wrk")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model, arguments in (("names", NAMES), ("chat", CHAT)):
            if model in chosen.models:
                harness.train(folder / model, *arguments, *QUICK)
        if "throughput" in chosen.parts:
            endpoints = [each for each in ENDPOINTS if each.model in chosen.models]
            throughput(endpoints, chosen.seconds, chosen.rounds, folder, chosen.earlier and chosen.earlier.resolve())
        if "health" in chosen.parts:
            health(chosen.models, chosen.seconds, chosen.rounds, folder)


if __name__ == "__main__":
    sys.exit(harness.finish(main))
