"""Measure task=serve: requests and tokens a second by the number of clients, and the latency of /health under load.

A bare route of the same framework, under the same uvicorn settings, shows the upper limit. The load comes from wrk
on the same machine (apt-get install wrk, brew install wrk), with one connection per client, which
sends its next request as soon as the last is answered. Every figure is a median of rounds.

python scripts/benchmark_serve.py --seconds 5 --rounds 3
"""

import argparse
import http.client
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import psutil

NAMES = ["data=names", "style=classic", "train.steps=300"]
CHAT = ["data=chat", "model=gpt_chat", "style=classic", "train.steps=20"]  # 128 features, 4 layers, block 256
QUICK = ["mode=tensor", "train.eval_documents=20", "sample.num_samples=0"]
HELLO = '{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 32, "temperature": 1.0, "seed": %d}'
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
    """The server and the request of a row; `%d` in the body is replaced by a new number in each request."""

    name: str
    server: str
    path: str
    body: str


CASES = [
    Endpoint("bare route, constant JSON", "bare", "/constant", '{"seed": %d}'),
    Endpoint("bare route, the body checked", "bare", "/checked", '{"seed": %d}'),
    Endpoint("names: one name", "names", "/microgpt/v1/generate", '{"seed": %d}'),
    Endpoint("names: ten names", "names", "/microgpt/v1/generate", '{"num_samples": 10, "seed": %d}'),
    Endpoint("names: one name, streamed", "names", "/microgpt/v1/stream", '{"prompt": "", "seed": %d}'),
    Endpoint("chat: an answer", "chat", "/microgpt/v1/chat", HELLO),
]  # fmt: skip
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
        """Return the seconds of CPU time so far, which other programs on the machine affect little."""
        times = self.process.cpu_times()
        return times.user + times.system


@contextmanager
def serving(name: str, folder: Path) -> Iterator[Server]:
    """Run a server; yield it once it has printed its address."""
    program = [str(Path(__file__).resolve()), "--bare"]
    if name != "bare":
        program = ["-m", "microgpt", "task=serve", f"outputs_dir={name}", "checkpoint=latest", "serve.port=0"]
    process = subprocess.Popen([sys.executable, *program], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = next(found[0] for line in process.stdout if (found := re.search(r"http://127[^\s]+", line)))
        yield Server(url, psutil.Process(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def bare() -> None:
    """Serve with the framework alone, started as serve/server.py starts it."""
    import uvicorn
    from fastapi import FastAPI

    from microgpt.config.schema import ServeConfig
    from microgpt.serve.microgpt_schemas import GenerateAnswer, GenerateRequest
    from microgpt.serve.server import LimitedProtocol, listen

    app = FastAPI()

    @app.post("/constant")
    async def constant() -> dict[str, list[str]]:
        return {"samples": ["anna"]}

    @app.post("/checked")
    async def checked(request: GenerateRequest) -> GenerateAnswer:
        return GenerateAnswer(samples=["anna"])

    with listen(ServeConfig(port=0)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, http=LimitedProtocol, ws="none", loop="uvloop", access_log=False, log_config=None)
        uvicorn.Server(config).run(sockets=[listener])


def start_load(url: str, path: str, body: str, clients: int, seconds: float, folder: Path) -> subprocess.Popen[str]:
    script = folder / "load.lua"
    script.write_text(LUA.replace("PATH", path).replace("BODY", body))
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "60s", "-s", str(script), url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def figures(load: subprocess.Popen[str]) -> dict[str, float]:
    """Return what wrk measured, times in milliseconds."""
    found = json.loads(load.communicate()[0].strip().splitlines()[-1])
    times = {key: found[key] / 1000 for key in ("p50", "p90", "p99")}
    return {**found, **times, "rate": found["requests"] / found["us"] * 1e6}


def drawn_tokens(url: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics") as page:
        found = re.search(r'^microgpt_tokens_total{kind="drawn"} (\S+)', page.read().decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def measure(server: Server, case: Endpoint, clients: int, seconds: float, folder: Path) -> dict[str, float]:
    before = 0.0 if case.server == "bare" else drawn_tokens(server.url)
    start, cpu = time.perf_counter(), server.cpu()
    found = figures(start_load(server.url, case.path, case.body, clients, seconds, folder))
    found["cpu"] = (server.cpu() - cpu) / found["requests"] * 1000
    if case.server != "bare":
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


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def median(found: Sequence[dict[str, float]], key: str) -> float:
    return statistics.median(each[key] for each in found)


def throughput(cases: Sequence[Endpoint], clients: Sequence[int], seconds: float, rounds: int, folder: Path) -> None:
    heading = "endpoint | clients | requests/s | tokens/s | p50 ms | p90 ms | p99 ms | CPU ms/request | refused, lost"
    print(harness.table(heading.split(" | "), []))
    for case in cases:
        with serving(case.server, folder) as server:
            measure(server, case, 4, 1, folder)  # warm-up
            for number in clients:
                found = [measure(server, case, number, seconds, folder) for _ in range(rounds)]
                tokens = f"{median(found, 'tokens'):,.0f}" if "tokens" in found[0] else ""
                times = [f"{median(found, key):.2f}" for key in ("p50", "p90", "p99", "cpu")]
                lost = ", ".join(f"{sum(each[key] for each in found):.0f}" for key in ("refused", "lost"))
                row = [case.name, number, f"{median(found, 'rate'):,.0f}", tokens, *times, lost]
                print(harness.line(row), flush=True)


def health(servers: Sequence[str], seconds: float, rounds: int, folder: Path) -> None:
    """Measure the latency of /health over the requests of all rounds, under load and, for comparison, without."""
    heading = "load | clients | /health p50 ms | p99 ms | most ms | questions | answers/s | of them 429"
    print("\n" + harness.table(heading.split(" | "), []))
    for name, path, body, clients in SATURATED:
        if name not in servers:
            continue
        times: list[float] = []
        loaded: list[dict[str, float]] = []
        with serving(name, folder) as server:
            for _ in range(rounds):
                load = start_load(server.url, path, body, clients, seconds + 1, folder) if clients else None
                time.sleep(0.5)
                times += probe_health(server.url, seconds)
                if load:
                    loaded.append(figures(load))
        rates = [f"{median(loaded, 'rate'):,.0f}", f"{refused_share(loaded):.0%}"] if loaded else ["", ""]
        found = [f"{each:.1f}" for each in (percentile(times, 0.5), percentile(times, 0.99), max(times))]
        print(harness.line([f"{name}{path}", clients, *found, len(times), *rates]), flush=True)


def refused_share(loaded: Sequence[dict[str, float]]) -> float:
    return sum(each["refused"] for each in loaded) / max(sum(each["requests"] for each in loaded), 1)


def main() -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--servers", nargs="+", default=["bare", "names", "chat"], choices=["bare", "names", "chat"])
    parser.add_argument("--parts", nargs="+", default=["throughput", "health"], choices=["throughput", "health"])
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    chosen: Any = parser.parse_args()
    if chosen.bare:
        bare()
        return 0
    if shutil.which("wrk") is None:
        print("error: wrk is not installed: apt-get install wrk, or brew install wrk", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for server, arguments in (("names", NAMES), ("chat", CHAT)):
            if server in chosen.servers:
                train = [sys.executable, "-m", "microgpt", *arguments, *QUICK, f"outputs_dir={server}"]
                subprocess.run(train, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        cases = [case for case in CASES if case.server in chosen.servers]
        if "throughput" in chosen.parts:
            throughput(cases, chosen.clients, chosen.seconds, chosen.rounds, folder)
        if "health" in chosen.parts:
            health(chosen.servers, chosen.seconds, chosen.rounds, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
