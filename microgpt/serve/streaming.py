"""Turns a generation into a response, as a whole or as server-sent events, while the client is connected."""

import asyncio
import contextlib
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from microgpt.errors import NonFiniteError
from microgpt.serve.errors import ClientDisconnectedError, ClosedError, RequestTimeoutError, to_json
from microgpt.serve.generation import GeneratedText, Generation
from microgpt.serve.generation_queue import GenerationQueue

READING_SECONDS = 10.0  # time for a slow client to read after the deadline of the generation
WATCH_AFTER = 0.05  # seconds; a task that watches for a disconnect costs more than most requests


@contextmanager
def watched(receive: Receive, generation: Generation) -> Iterator[None]:
    """Fail a generation with ClientDisconnectedError if its client closes the connection."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        generation.fail(ClientDisconnectedError())

    tasks: list[asyncio.Task] = []
    timer = generation.loop.call_later(WATCH_AFTER, lambda: tasks.append(generation.loop.create_task(watch())))
    try:
        yield
    finally:
        timer.cancel()
        for task in tasks:
            task.cancel()


async def collect_texts(receive: Receive, queue: GenerationQueue, generation: Generation) -> list[GeneratedText]:
    """Return all texts. The slot is always freed.

    Raises ClosedError, RequestTimeoutError, ClientDisconnectedError, NonFiniteError.
    """
    try:
        with watched(receive, generation):
            return await generation.texts()
    except BaseException:
        queue.cancel(generation)
        raise


def event(content: Any) -> str:
    """Return a server-sent event."""
    return f"data: {to_json(content)}\n\n"


class EventStream(Response):
    """The server-sent events of a generation. When they end or the client does not read in time, its slot is freed.

    Each string from `events` is sent immediately. The status of a started stream cannot change, so an error is sent as
    the last event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        queue: GenerationQueue,
        generation: Generation,
        events: AsyncIterator[str],
        error_event: Callable[[Exception], str],
    ):
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.queue, self.generation, self.events, self.error_event = queue, generation, events, error_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_body(content: str, more: bool) -> None:
            await send({"type": "http.response.body", "body": content.encode(), "more_body": more})

        try:
            with contextlib.suppress(TimeoutError), watched(receive, self.generation):
                # The time limit is for a client that does not read; uvicorn then closes the connection.
                async with asyncio.timeout_at(self.generation.deadline + READING_SECONDS):
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    async for content in self.with_error():
                        await send_body(content, True)
                    await send_body("", False)
        finally:
            self.queue.cancel(self.generation)

    async def with_error(self) -> AsyncIterator[str]:
        try:
            async for each in self.events:
                yield each
        except ClientDisconnectedError:
            return
        except (ClosedError, NonFiniteError, RequestTimeoutError) as error:
            yield self.error_event(error)
        except Exception as error:
            traceback.print_exc()
            yield self.error_event(error)
