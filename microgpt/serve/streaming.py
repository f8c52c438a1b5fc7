"""From a generation to a response, whole or as server-sent events, while the client is connected."""

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
from microgpt.serve.errors import RequestTimeoutError
from microgpt.serve.generation_queue import ClosedError, GeneratedToken, Generation, GenerationQueue

READING_SECONDS = 10.0  # that a slow client has after the deadline of the generation


class ClientDisconnectedError(Exception):
    """The client has closed the connection."""


async def collect_tokens(request: Request, queue: GenerationQueue, generation: Generation) -> list[GeneratedToken]:
    """Return all tokens of all texts; the slot is freed in any case.

    Raises ClosedError, RequestTimeoutError, ClientDisconnectedError.
    """

    async def collect() -> list[GeneratedToken]:
        return [token async for token in generation.tokens()]

    collecting = asyncio.ensure_future(collect())
    leaving = asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            raise ClientDisconnectedError
        return collecting.result()
    except TimeoutError:
        raise RequestTimeoutError from None
    finally:
        queue.cancel(generation)
        for waiting in (collecting, leaving):
            waiting.cancel()


async def disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def event(content: Any) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(content, allow_nan=False, separators=(',', ':'))}\n\n"


class EventStream(StreamingResponse):
    """Server-sent events of a generation, while the client reads them in time; then its slot is freed.

    The status of a started stream cannot change, so an error becomes its last event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        queue: GenerationQueue,
        generation: Generation,
        events: AsyncIterator[str],
        error_event: Callable[[Exception], str],
    ):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(with_error_event(events, error_event), headers=headers)
        self.queue, self.generation = queue, generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(TimeoutError):  # a client that does not read; uvicorn closes the connection
                async with asyncio.timeout_at(self.generation.deadline + READING_SECONDS):
                    await super().__call__(scope, receive, send)
        finally:
            self.queue.cancel(self.generation)


async def with_error_event(events: AsyncIterator[str], error_event: Callable[[Exception], str]) -> AsyncIterator[str]:
    try:
        async for each in events:
            yield each
    except TimeoutError:
        yield error_event(RequestTimeoutError())
    except (ClosedError, NonFiniteError) as error:
        yield error_event(error)
    except Exception as error:
        traceback.print_exc()
        yield error_event(error)
