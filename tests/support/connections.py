"""Connections on which wrong requests are sent, and what a server may answer to them."""

import asyncio
import contextlib
import io
import json
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse

from support.invalid_requests import Wrong

LIMIT = 60  # seconds within which every connection must have come to its end
ROUTED = ("value", "json", "type", "method", "path", "20 MB", "20 MB in chunks")  # HTTP that reaches a route's errors
LEAKS = ("Traceback", "site-packages", ".py", "object at 0x", "microgpt.serve")


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes


async def send(port: int, wrong: Wrong) -> list[Answer]:
    """All that is answered on one connection. Raises TimeoutError where that takes too long."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        async with asyncio.timeout(LIMIT):
            await loop.sock_connect(connection, ("127.0.0.1", port))
            heard = asyncio.ensure_future(everything(connection))
            with contextlib.suppress(OSError):  # refused in the middle; what has been said can still be read
                for piece in wrong.pieces:
                    await loop.sock_sendall(connection, piece)
                if wrong.then == "end":
                    connection.shutdown(socket.SHUT_WR)
            if wrong.then in ("leave", "reset"):
                await asyncio.wait({heard}, timeout=0.02 if wrong.then == "reset" else 0)
                heard.cancel()
                await asyncio.wait({heard})
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", wrong.then == "reset", 0))
                return []
            return parsed(await heard, wrong.method)


async def everything(connection: socket.socket) -> bytes:
    """What comes until the end, however that is."""
    heard = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.get_running_loop().sock_recv(connection, 65536):
            heard += piece
    return bytes(heard)


class Heard(io.BytesIO):
    """What came over a connection, as http.client wants to read it."""

    def makefile(self, mode: str) -> "Heard":
        return self

    def close(self) -> None:
        pass


def parsed(heard: bytes, method: str) -> list[Answer]:
    """Raises HTTPException for what is no HTTP."""
    stream, answers = Heard(heard), []
    while stream.tell() < len(heard):
        response = HTTPResponse(stream, method=method)  # type: ignore[arg-type]
        response.begin()
        answers.append(Answer(response.status, response.getheader("Content-Type", ""), response.read()))
    return answers


def fault_of(wrong: Wrong, answers: Sequence[Answer]) -> str | None:
    """What is wrong with the answers, if anything is."""
    for answer in answers:
        if answer.status >= 500 and answer.status != 503:
            return f"status {answer.status}"
        if answer.status >= 400 and wrong.method != "HEAD":
            if answer.content_type != "application/json":
                return f"an error of type {answer.content_type!r}"
            error = json.loads(answer.body)["error"]
            is_openai = isinstance(error, dict) and set(error) == {"message", "type", "param", "code"}
            sentence = error["message"] if is_openai else error
            if wrong.kind in ROUTED and is_openai != (wrong.path == "/v1" or wrong.path.startswith("/v1/")):
                return f"an error of another API: {error!r}"
            if not sentence or len(sentence) > 500 or "\n" in sentence:
                return f"the error {sentence[:900]!r}"
            if any(
                leak in sentence for leak in ("Traceback", "site-packages", ".py", "object at 0x", "microgpt.serve")
            ):
                return f"an error that leaks: {sentence!r}"
    if not answers and wrong.then == "read":
        return "no answer"
    return None


async def send_all(port: int, requests: Sequence[Wrong], clients: int = 16) -> list[str]:
    """Send them by so many clients at once; returns the faults that were found."""
    left, faults = iter(requests), []

    async def client() -> None:
        for wrong in left:
            begun = time.monotonic()
            try:
                fault = fault_of(wrong, await send(port, wrong))
            except TimeoutError:
                fault = f"no end after {time.monotonic() - begun:.0f} s"
            except (ValueError, KeyError, TypeError, HTTPException) as error:
                fault = f"an answer that is not understood: {error!r}"
            if fault:
                faults.append(f"{fault} to {wrong.kind} at {wrong.path}: {b''.join(wrong.pieces)[:600]!r}")

    await asyncio.gather(*(client() for _ in range(clients)))
    return faults
