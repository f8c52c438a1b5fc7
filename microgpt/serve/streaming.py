"""Between a request and its ticket: wait for what is drawn, as long as the client is there and there is time."""

import asyncio
import contextlib
import json
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from microgpt.errors import NonFiniteError
from microgpt.serve.errors import TimeIsUpError
from microgpt.serve.generation_queue import Asked, Batcher, ClosedError, Drawn, Ticket

READING_SECONDS = 10.0  # that a slow reader has beyond the time of generation


class ClientGoneError(Exception):
    """Nobody is there to read the answer."""


async def drawn_whole(request: Request, batcher: Batcher, asked: Asked, seconds: float) -> list[Drawn]:
    """All tokens of all texts; however it ends, the slot is free.

    Raises QueueFullError, ClosedError, TimeIsUpError, ClientGoneError.
    """
    ticket = batcher.submit(asked)

    async def collect() -> list[Drawn]:
        return [drawn async for drawn in ticket.tokens(seconds)]

    collecting = asyncio.ensure_future(collect())
    leaving = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            raise ClientGoneError
        return collecting.result()
    except TimeoutError:
        raise TimeIsUpError from None
    finally:
        batcher.cancel(ticket)
        for waiting in (collecting, leaving):
            waiting.cancel()


async def disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def event(content: Any) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(content, allow_nan=False, separators=(',', ':'))}\n\n"


class Events(StreamingResponse):
    """Server-sent events of a ticket, for as long as the client reads them in time; then its slot is free.

    A stream that has begun cannot change its status: an error becomes its last event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        batcher: Batcher,
        ticket: Ticket,
        events: AsyncIterator[str],
        seconds: float,
        told: Callable[[Exception], str],
    ):
        super().__init__(told_of_errors(events, told), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.batcher, self.ticket, self.seconds = batcher, ticket, seconds + READING_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(TimeoutError):  # of a client that does not read; uvicorn closes the connection
                async with asyncio.timeout(self.seconds):
                    await super().__call__(scope, receive, send)
        finally:
            self.batcher.cancel(self.ticket)


async def told_of_errors(events: AsyncIterator[str], told: Callable[[Exception], str]) -> AsyncIterator[str]:
    try:
        async for each in events:
            yield each
    except TimeoutError:
        yield told(TimeIsUpError())
    except (ClosedError, NonFiniteError) as error:
        yield told(error)
    except Exception as error:
        traceback.print_exc()
        yield told(error)
