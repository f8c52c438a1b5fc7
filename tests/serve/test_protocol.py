"""The protocol of the HTTP server on a recording transport: limits, and joined writes."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi_offline", reason="task=serve needs the extra [serve]")
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from microgpt.serve.server import MAX_EXCESS, LimitedProtocol

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def exchange(*pieces: bytes) -> Transport:
    """Return the transport after a client has sent the pieces, one per iteration of the event loop."""

    async def run() -> Transport:
        config = uvicorn.Config(echo, http=LimitedProtocol, ws="none", log_config=None, lifespan="off")
        config.load()
        protocol, transport = LimitedProtocol(config, ServerState(), {}), Transport()
        protocol.connection_made(transport)
        for piece in pieces:
            if not transport.closed:
                protocol.data_received(piece)
            for _ in range(5):
                await asyncio.sleep(0)
        protocol.connection_lost(ConnectionResetError())
        return transport

    return asyncio.run(run())


def test_head_and_body_of_a_response_are_one_write() -> None:
    found = exchange(HEAD + b"Content-Length: 5\r\n\r\n", b"hello")
    assert len(found.written) == 1
    assert found.written[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert found.written[0].endswith(b"\r\n\r\nhello")
    assert not found.closed


def test_a_large_body_is_no_excess() -> None:
    piece = b"a" * MAX_EXCESS
    found = exchange(HEAD + b"Content-Length: %d\r\n\r\n" % (3 * MAX_EXCESS), piece, piece, piece)
    assert found.written[0].startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD, *[b"A: " + b"b" * 20_000 + b"\r\n"] * 5],
        [HEAD + b"A: ", *[b"b" * 20_000] * 5],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", *[b"A: " + b"b" * 20_000 + b"\r\n"] * 5],
    ],
    ids=["headers", "one header", "trailers"],
)
def test_a_request_with_too_much_besides_its_body_is_400_and_closes_the_connection(pieces: list[bytes]) -> None:
    found = exchange(*pieces)
    (answer,) = found.written
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.endswith(b'{"error":"The head of the request is too large"}')
    assert found.closed
