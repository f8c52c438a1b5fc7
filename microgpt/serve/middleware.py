"""Authentication and limits: bearer token, Host, content type, size and time of the body, valid JSON.

`CheckedRoute` applies them after routing, so that an unknown path is always a 404, but before the body is read.
Requiring application/json also blocks pages of other sites: browsers send a preflight request, which is not allowed.
"""

import asyncio
import contextlib
import hmac
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from ipaddress import ip_address
from typing import Any, NoReturn

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from microgpt.serve.errors import (
    HANDLED_ERRORS,
    AsciiJSON,
    ClientDisconnectedError,
    ErrorResponse,
    respond_with_error,
)

BODY_SECONDS = 15.0  # time limit for a client to send the body


@dataclass(frozen=True)
class RequestLimits:
    api_key: str | None
    max_body_bytes: int
    body_seconds: float = BODY_SECONDS

    def check_key(self, request: Request) -> None:
        if self.api_key is None:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        sent = key.strip().encode("latin-1")  # the original bytes: Starlette decodes headers as Latin-1
        # In constant time, so that response times do not reveal the key.
        same = [hmac.compare_digest(sent, accepted) for accepted in encodings(self.api_key)]
        if kind.lower() != "bearer" or not any(same):
            raise HTTPException(
                401, "the header Authorization: Bearer <key> is missing or wrong", {"WWW-Authenticate": "Bearer"}
            )

    async def read_json(self, request: Request) -> Any:
        """Return the parsed JSON body. Raises HTTPException 400, 408, 413 or 415, and ClientDisconnectedError."""
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
        body, more = b"", True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnectedError
            body += message.get("body", b"")
            if len(body) > self.max_body_bytes:
                raise too_large
            more = message.get("more_body", False)
        return body


def parse(body: bytes) -> Any:
    """Parse JSON. Raises HTTPException 400, including for NaN, numbers with thousands of digits and deep nesting."""
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


def encodings(key: str) -> list[bytes]:
    """Return the bytes that clients may send for a key: UTF-8 and, if possible, Latin-1."""
    found = [key.encode()]
    with contextlib.suppress(UnicodeEncodeError):
        found.append(key.encode("latin-1"))
    return found


class HostCheck:
    """ASGI middleware against DNS rebinding, in which a page of another site reaches this machine by its own host name.

    Allowed are localhost, serve.host, the names in serve.allowed_hosts ("*": any name), loopback addresses and, if the
    server does not listen only on loopback, any address: a rebinding attack needs a name. Browsers always send a Host.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: Sequence[str]):
        self.app = app
        self.names = {"localhost", host.lower(), *map(str.lower, allowed)}
        self.loopback_only = host == "localhost" or is_loopback(host)
        self.allows = lru_cache(maxsize=64)(self.check)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            header = next((value for key, value in scope["headers"] if key == b"host"), b"")
            if not self.allows(header):
                name = host_name(header)
                shown = name[:60].encode("ascii", "backslashreplace").decode()
                message = f"Host {shown} is not allowed: add it to serve.allowed_hosts or set serve.api_key"
                body = ErrorResponse(403, message).body(scope["path"])
                await AsciiJSON(body, status_code=403)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def check(self, header: bytes) -> bool:
        name = host_name(header)
        if not name or name in self.names or "*" in self.names or name.endswith(".localhost"):
            return True
        try:
            address = ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self.loopback_only


def host_name(header: bytes) -> str:
    """Return the name or address of a Host header, without port and brackets."""
    name = header.decode("latin-1").strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if ":" in name else name


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class HeadAsGet:
    """ASGI middleware that answers HEAD like GET but without the body. FastAPI's routes answer only GET."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        inner = {**scope, "method": "GET"}
        await self.app(inner, receive, without_body)
        scope["route"] = inner.get("route")  # for the metrics


class CheckedRoute(APIRoute):
    """A route whose requests must pass `app.state.limits`.

    FastAPI only documents the body. The endpoint's parameter `body`, a pydantic model, validates it, four times faster.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, endpoint = super().get_route_handler(), self.endpoint
        schema = signature(endpoint).parameters.get("body")

        async def checked(request: Request) -> Response:
            limits: RequestLimits = request.app.state.limits
            limits.check_key(request)
            if schema is None:
                return await handle(request)
            return await endpoint(request, schema.annotation.model_validate(await limits.read_json(request)))

        return checked


class DirectRoutes:
    """ASGI application that calls checked POST routes directly and passes all other requests to FastAPI.

    FastAPI's layers around a route take as long as all of the server's work for a short text.
    """

    def __init__(self, app: FastAPI, routers: Sequence[APIRouter]):
        self.app = app
        self.handlers = {
            route.path: (route, route.get_route_handler())
            for router in routers
            for route in router.routes
            if isinstance(route, CheckedRoute) and "POST" in (route.methods or ())
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self.handlers:
            await self.app(scope, receive, send)
            return
        scope["route"], handle = self.handlers[scope["path"]]
        scope["app"] = self.app
        request = Request(scope, receive)
        try:
            response = await handle(request)
        except HANDLED_ERRORS as error:
            response = await respond_with_error(request, error)
        except Exception as error:
            await (await respond_with_error(request, error))(scope, receive, send)
            raise  # for uvicorn to log
        await response(scope, receive, send)
