"""Authentication and limits: the bearer token, the content type, the size and time of a body, valid JSON.

`CheckedRoute` applies them after routing, so that an unknown path is 404 in any case, and before the body is read.
Requiring application/json also blocks pages of other sites: browsers send a preflight, which is not allowed.
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

BODY_SECONDS = 15.0  # for a client to send its body


@dataclass(frozen=True)
class RequestLimits:
    api_key: str | None
    max_body_bytes: int
    body_seconds: float = BODY_SECONDS

    def check_key(self, request: Request) -> None:
        if self.api_key is None:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        # In constant time, so that response times do not reveal the key.
        same = hmac.compare_digest(key.strip().encode(), self.api_key.encode())
        if kind.lower() != "bearer" or not same:
            raise HTTPException(
                401, "the header Authorization: Bearer <key> is missing or wrong", {"WWW-Authenticate": "Bearer"}
            )

    async def read_json(self, request: Request) -> Any:
        """Return the parsed JSON body. Raises HTTPException 400, 408, 413 or 415."""
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
    """Parse JSON. Raises HTTPException 400, also for NaN, numbers of thousands of digits and deep nesting."""
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


class ParsedRequest(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, request: Request, parsed: Any):
        super().__init__(request.scope, request.receive)
        self.parsed = parsed

    async def body(self) -> bytes:
        return b"read"

    async def json(self) -> Any:
        return self.parsed


class CheckedRoute(APIRoute):
    """A route whose requests must pass `app.state.limits`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def checked(request: Request) -> Response:
            limits: RequestLimits = request.app.state.limits
            limits.check_key(request)
            if self.body_field is None:
                return await handle(request)
            return await handle(ParsedRequest(request, await limits.read_json(request)))

        return checked
