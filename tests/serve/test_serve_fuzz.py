"""Ten thousand invalid requests each get a JSON error, and memory, files and threads do not grow."""

import asyncio
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

pytest.importorskip("fastapi_offline", reason="task=serve needs the extra [serve]")
from support.connections import LIMIT, send, send_all
from support.invalid_requests import PATHS, Wrong, body_of, head, large, post, wrong_request
from support.program import Program, environment
from support.server_process import Server, start_server, train_endless, train_names

WARM_UP = 1_000  # requests after which the server has made what it keeps
GROWTH = 16 * 2**20  # bytes of memory that an allocator may still take; a leak of 2 KB a request would be more
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
PATIENCE = 15  # seconds that the server leaves to a head, and to a body


@pytest.fixture(scope="module")
def names(shared_program: Program) -> Iterator[Server]:
    with start_server(train_names(shared_program)) as server:
        yield server


def answers_of(server: Server) -> list[Any]:
    """Return the state that must be the same before and after."""
    with server.client() as client:
        asked = client.post("/microgpt/v1/generate", json={"num_samples": 10, "seed": 5})
        looked = client.post("/microgpt/v1/attention", json={"text": "anna"})
        return [client.get("/health").json(), client.get("/microgpt/v1/model").json(), asked.json(), looked.json()]


def size_of(server: Server) -> dict[str, int]:
    """Return memory in bytes, file descriptors and threads once no requests are running."""
    for gauge in ("microgpt_requests_active", "microgpt_requests_waiting"):
        server.wait_for_metric(gauge, 0)
    process = psutil.Process(server.process.pid)
    end = time.monotonic() + 30
    while len(process.net_connections()) > 1 and time.monotonic() < end:  # the last ones are being closed
        time.sleep(0.05)
    return {"memory": process.memory_info().rss, "files": process.num_fds(), "threads": process.num_threads()}


def check_unharmed(server: Server, before: list[Any], size: dict[str, int]) -> None:
    now = size_of(server)
    assert now["memory"] - size["memory"] < GROWTH, (size, now)
    assert now["files"] <= size["files"], (size, now)
    assert now["threads"] <= size["threads"] + (os.cpu_count() or 1) + 4, "more than its pool of threads"
    assert answers_of(server) == before
    assert server.complained() == ""


def fuzz(server: Server, seed: int, count: int) -> None:
    rng = random.Random(seed)
    requests = [wrong_request(rng) for _ in range(count)]
    faults = asyncio.run(send_all(server.port, requests))
    assert not faults, "\n".join([f"{len(faults)} of {count} with seed {seed}:", *faults[:10]])


@pytest.mark.slow
def test_ten_thousand_wrong_requests_do_no_harm(names: Server) -> None:
    before = answers_of(names)
    fuzz(names, seed=4, count=WARM_UP)
    size = size_of(names)
    for seed in range(5, 15):
        fuzz(names, seed, count=1_000)
    rng = random.Random(15)
    faults = asyncio.run(send_all(names.port, [large(rng, rng.choice(PATHS)) for _ in range(50)], clients=8))
    assert not faults, faults[0]
    check_unharmed(names, before, size)
    with names.client() as client:
        statuses = set(re.findall(r'microgpt_requests_total{.*status="(\d+)"} [1-9]', client.get("/metrics").text))
    assert statuses >= {"200", "400", "404", "405", "413", "415", "422"}, "the requests reached all of these"
    assert not statuses & {"500", "503"}


@pytest.mark.slow
def test_what_schemathesis_makes_of_the_openapi_document_is_answered_as_documented(names: Server) -> None:
    pytest.importorskip("schemathesis")
    before = answers_of(names)
    size = size_of(names)
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{names.url}/openapi.json", "--checks", CHECKS,
            "--max-examples", "60", "--seed", "1", "--request-timeout", str(LIMIT), "--generation-database", "none",
            "--suppress-health-check", "all", "--continue-on-failure", "--warnings", "off", "--no-color",
        ],
        cwd=names.output.parent, capture_output=True, text=True, timeout=1200, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found, done.stdout[-2000:]
    assert int(found[1]) > 600
    check_unharmed(names, before, size)


async def slow_client(port: int, wrong: Wrong, pause: float) -> tuple[float, bytes]:
    """Send a request byte by byte. Returns the seconds until the server closed the connection, and its response."""
    begun = time.monotonic()
    async with asyncio.timeout(LIMIT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        heard = asyncio.ensure_future(reader.read())
        for byte in b"".join(wrong.pieces):
            writer.write(bytes([byte]))
            done, _ = await asyncio.wait({heard}, timeout=pause)
            if done:
                break
        said = await heard
        writer.close()
    return time.monotonic() - begun, said


@pytest.mark.slow
def test_slow_clients_are_let_go_while_others_are_served(names: Server) -> None:
    path = PATHS[-1]
    body = body_of(path)
    slow_body = [head(path, more=[b"Content-Length: %d" % len(body)])]

    async def slow_bodies() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", names.port)
        writer.write(slow_body[0] + body[:10])
        async with asyncio.timeout(LIMIT):
            return await reader.read()

    async def run() -> tuple[list[tuple[float, bytes]], list[bytes], list[float]]:
        heads = [slow_client(names.port, post("slow", path, body), 0.2) for _ in range(20)]
        slow = asyncio.gather(asyncio.gather(*heads), asyncio.gather(*(slow_bodies() for _ in range(20))))
        waits = []
        while not slow.done():
            begun = time.monotonic()
            (answer,) = await send(names.port, post("right", path, body))
            assert answer.status == 200
            waits.append(time.monotonic() - begun)
            await asyncio.sleep(0.1)
        return *(await slow), waits

    before, size = answers_of(names), size_of(names)
    heads, bodies, waits = asyncio.run(run())
    assert all(said == b"" for _, said in heads), "half a head gets no answer"
    assert all(PATIENCE - 1 < seconds < 3 * PATIENCE for seconds, _ in heads)
    assert all(said.startswith(b"HTTP/1.1 408 ") for said in bodies)
    assert len(waits) > 10
    check_unharmed(names, before, size)


@pytest.mark.slow
def test_a_client_that_does_not_read_its_stream_is_let_go(microgpt: Program) -> None:
    with start_server(train_endless(microgpt), "serve.max_new_tokens=100000", "serve.timeout=2") as server:
        before, size = answers_of(server), size_of(server)
        stream = b'{"prompt": "", "temperature": 0.7, "max_tokens": 100000, "candidates": 20}'
        asked = post("slow reader", "/microgpt/v1/stream", stream)
        unread = []
        for _ in range(4):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(b"".join(asked.pieces))
            unread.append(connection)
        server.wait_for_metric("microgpt_requests_active", len(unread))
        assert answers_of(server) == before, "others are served meanwhile"
        now = size_of(server)  # waits until the connections are gone
        assert now["files"] <= size["files"]
        for connection in unread:
            connection.close()
        assert answers_of(server) == before
        assert server.stop(signal.SIGTERM) == 0
