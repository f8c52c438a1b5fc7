"""What a request must pass before it is looked at: the key, the content type, the body's size and time, valid JSON.

A route of `Guarded` does all this after routing, so that a wrong path is 404 whatever came with it, and before anything
is read that need not be. A page of another site cannot send JSON here: browsers ask first, and are not allowed to.
"""

import asyncio
import hmac
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

BODY_SECONDS = 15.0  # that a client may take to send its body


@dataclass(frozen=True)
class Gate:
    api_key: str | None
    max_body_bytes: int
    body_seconds: float = BODY_SECONDS

    def check_key(self, request: Request) -> None:
        if self.api_key is None:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        # Compared in constant time, so that the time of an answer tells nothing of the key.
        same = hmac.compare_digest(key.strip().encode(), self.api_key.encode())
        if kind.lower() != "bearer" or not same:
            raise HTTPException(
                401, "this server wants the header Authorization: Bearer <key>", {"WWW-Authenticate": "Bearer"}
            )

    async def read_json(self, request: Request) -> Any:
        """The body as JSON. Raises HTTPException 400, 408, 413 or 415."""
        content_type = request.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "the body must have Content-Type: application/json")
        try:
            async with asyncio.timeout(self.body_seconds):
                body = await self.read(request)
        except TimeoutError:
            raise HTTPException(408, "the body took too long to arrive", {"Connection": "close"}) from None
        return parse(body)

    async def read(self, request: Request) -> bytes:
        too_large = HTTPException(
            413, f"the body is too large: at most {self.max_body_bytes} bytes", {"Connection": "close"}
        )
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self.max_body_bytes:
            raise too_large
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > self.max_body_bytes:
                raise too_large
        return bytes(body)


def parse(body: bytes) -> Any:
    """Raises HTTPException 400 for what JSON does not have, for numbers of thousands of digits, for deep nesting."""
    try:
        return json.loads(body.decode(), parse_constant=refuse)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at line {error.lineno} column {error.colno}"
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = str(error) if str(error).endswith("JSON value") else "a number in it is too long"
    raise HTTPException(400, f"the body is not valid JSON: {reason}")


def refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


class Read(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, request: Request, parsed: Any):
        super().__init__(request.scope, request.receive)
        self.parsed = parsed

    async def body(self) -> bytes:
        return b"read"

    async def json(self) -> Any:
        return self.parsed


class Guarded(APIRoute):
    """A route that wants the key, where there is one, and whose body passes `app.state.gate`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            gate: Gate = request.app.state.gate
            gate.check_key(request)
            if self.body_field is None:
                return await handle(request)
            return await handle(Read(request, await gate.read_json(request)))

        return guarded
