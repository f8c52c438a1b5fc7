"""The server with too many requests, too long requests and disconnecting clients: other clients are not affected."""

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi_offline", reason="task=serve needs the extra [serve]")
import httpx
from support.program import Program, make_program
from support.server_process import (
    ACTIVE,
    COMPLETIONS,
    GENERATE,
    LONG,
    LONG_REQUESTS,
    LONG_STREAMS,
    STREAM,
    WAITING,
    WHOLE,
    InBackground,
    Server,
    events,
    send,
    start_server,
    train_endless,
    train_names,
)

pytestmark = pytest.mark.slow

CLIENTS = 64


@pytest.fixture(scope="module")
def server(shared_program: Program) -> Iterator[Server]:
    """A model trained on names, as by default."""
    with start_server(train_names(shared_program)) as server:
        yield server


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    for program in make_program(tmp_path_factory.mktemp("endless")):
        yield train_endless(program)


@pytest.fixture(scope="module")
def narrow(endless: Program) -> Iterator[Server]:
    """A server with one active and one waiting request, whose requests may take seconds."""
    with start_server(endless, "serve.max_active=1", "serve.max_queue=1", f"serve.max_new_tokens={LONG}") as server:
        yield server


def leave(server: Server, path: str, body: Any, read: int = 0) -> None:
    """Send a request, read some bytes of the response, and disconnect."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(head.encode() + content)
        if read:
            assert connection.recv(read).startswith(b"HTTP/1.1 200 ")
        else:
            server.wait_for_metric(ACTIVE, 1)


# Too much


def test_a_full_queue_is_429_and_both_who_were_there_are_answered(narrow: Server) -> None:
    body = WHOLE | {"max_tokens": 30_000}
    first = InBackground(lambda: send(narrow, GENERATE, body))
    narrow.wait_for_metric(ACTIVE, 1)
    second = InBackground(lambda: send(narrow, GENERATE, WHOLE | {"max_tokens": 10}))
    narrow.wait_for_metric(WAITING, 1)
    asked = [InBackground(lambda path=path, body=body: send(narrow, path, body)) for path, body in LONG_REQUESTS]
    refused = [each.wait() for each in asked]
    for answer in refused:
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        assert "busy" in json.dumps(answer.json()["error"])
    assert refused[1].json()["error"]["type"] == "rate_limit_error"
    (text,), (beginning,) = first.wait().json()["samples"], second.wait().json()["samples"]
    assert (len(text), beginning) == (30_000, text[:10])
    narrow.wait_for_metric(ACTIVE, 0)
    assert send(narrow, GENERATE, {"max_tokens": 3}).status_code == 200


def test_when_time_is_up_a_request_hears_so_and_its_slot_is_free(endless: Program) -> None:
    with start_server(endless, "serve.timeout=0.5", f"serve.max_new_tokens={LONG}", "serve.max_active=1") as server:
        for path, body in LONG_REQUESTS:
            answer = send(server, path, body)
            if (path, body) in LONG_STREAMS:
                assert answer.status_code == 200
                assert len(events(answer)) > 2, "something was told before"
                error = events(answer)[-1]["error"]
            else:
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
                error = answer.json()["error"]
            assert (error["message"] if path == COMPLETIONS else error) == "the request exceeded its time limit"
            server.wait_for_metric(ACTIVE, 0)
        assert server.complained() == ""


@pytest.mark.parametrize(("path", "body"), [LONG_REQUESTS[0], *LONG_STREAMS, LONG_REQUESTS[1]])
def test_a_client_that_leaves_frees_its_slot(narrow: Server, path: str, body: dict[str, Any]) -> None:
    """The request would take much longer than this test."""
    is_stream = (path, body) in LONG_STREAMS
    for _ in range(3):
        leave(narrow, path, body, read=100 if is_stream else 0)
        narrow.wait_for_metric(ACTIVE, 0, seconds=3)
    assert send(narrow, GENERATE, {"max_tokens": 3}).status_code == 200
    narrow.wait_for_metric(ACTIVE, 0)


def test_a_client_that_leaves_the_queue_makes_room_in_it(narrow: Server) -> None:
    first = InBackground(lambda: send(narrow, GENERATE, WHOLE | {"max_tokens": 30_000}))
    narrow.wait_for_metric(ACTIVE, 1)
    for _ in range(3):
        leave(narrow, GENERATE, WHOLE)
        narrow.wait_for_metric(WAITING, 0, seconds=3)
    assert first.is_alive()
    assert first.wait().status_code == 200


# What one asks does not change what another gets


def told(answer: httpx.Response) -> Any:
    """Return a response without the parts that always change: OpenAI ids and times."""
    assert answer.status_code == 200, answer.text
    streamed = answer.headers["Content-Type"].startswith("text/event-stream")
    found = events(answer) if streamed else [answer.json()]
    fresh = ("id", "created")
    return [{k: v for k, v in each.items() if k not in fresh} if isinstance(each, dict) else each for each in found]


def asked_of(seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Return requests with one seed: whole and streamed, short and long, for both APIs."""
    openai = {"model": "gpt", "prompt": "ma", "seed": seed, "n": 3, "stop": ["a"], "temperature": 0.9}
    return [
        (GENERATE, {"num_samples": 10, "seed": seed, "temperature": 0.8, "max_tokens": 40}),
        (GENERATE, {"seed": seed, "prompt": "an", "top_k": 5}),
        (COMPLETIONS, openai),
        (COMPLETIONS, openai | {"stream": True, "stream_options": {"include_usage": True}}),
        (STREAM, {"prompt": "j", "seed": seed, "temperature": 1.2, "candidates": 4}),
    ]


@pytest.mark.parametrize("seeds", [range(1), range(8)], ids=["equal seeds", "eight seeds"])
def test_64_clients_at_once_each_hear_what_one_alone_hears(server: Server, seeds: range) -> None:
    alone = {seed: [told(send(server, path, body)) for path, body in asked_of(seed)] for seed in seeds}

    async def together() -> list[tuple[int, list[Any]]]:
        async with httpx.AsyncClient(
            base_url=server.url, timeout=60, trust_env=False, limits=httpx.Limits(max_connections=CLIENTS)
        ) as client:

            async def one(number: int) -> tuple[int, list[Any]]:
                seed, answers = seeds[number % len(seeds)], {}
                asked = asked_of(seed)
                for i in range(len(asked)):  # each in an order of its own
                    place = (i + number) % len(asked)
                    path, body = asked[place]
                    answers[place] = told(await client.post(path, json=body))
                return seed, [answers[i] for i in range(len(asked))]

            return list(await asyncio.gather(*(one(number) for number in range(CLIENTS))))

    answers = asyncio.run(together())
    assert len(answers) == CLIENTS
    for seed, heard in answers:
        assert heard == alone[seed]
    if len(seeds) > 1:
        assert len({json.dumps(each) for each in alone.values()}) == len(seeds), "seeds make a difference"
    server.wait_for_metric(ACTIVE, 0)
