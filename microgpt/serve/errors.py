"""Errors as JSON: {"error": message}, or OpenAI's format under /v1. They never contain paths or stack traces."""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from microgpt.errors import NonFiniteError, UserError

MAX_SHOWN_VALUE = 60  # characters of a value to repeat in an error
RETRY_AFTER = "1"  # seconds
DELAY_429 = (0.25, 0.75)  # seconds, random delay of a 429: clients that retry immediately would keep the server busy
OPENAI_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class QueueFullError(Exception):
    """Too many requests are waiting."""


class ClosedError(Exception):
    """The server is shutting down."""


class RequestTimeoutError(Exception):
    """A request has reached its time limit."""


class ClientDisconnectedError(Exception):
    """The client has closed the connection."""


# JSON in ASCII, which can represent any string, even a lone surrogate from a request.
to_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class AsciiJSON(JSONResponse):
    def render(self, content: Any) -> bytes:
        return to_json(content).encode()


class RequestError(UserError):
    """A value of a request that is not allowed; `param` is its key."""

    def __init__(self, param: str, message: str):
        super().__init__(message)
        self.param = param


@contextmanager
def naming(param: str) -> Iterator[None]:
    """Add the request's key `param` to a UserError raised in the block."""
    try:
        yield
    except UserError as error:
        raise RequestError(param, str(error)) from None


@dataclass(frozen=True)
class ErrorResponse:
    status: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)
    param: str | None = None  # the invalid key of the request

    def body(self, path: str) -> dict[str, Any]:
        """Return the JSON body: {"error": message}, or OpenAI's format under /v1."""
        if not is_openai(path):
            return {"error": self.message}
        kind = OPENAI_ERROR_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": None}}


def is_openai(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def error_response(path: str, error: Exception) -> ErrorResponse:
    """Return the response to an exception. An invalid value is a 400 in OpenAI's API and a 422 in the native API."""
    invalid, retry = 400 if is_openai(path) else 422, {"Retry-After": RETRY_AFTER}
    if isinstance(error, HTTPException):
        return ErrorResponse(error.status_code, str(error.detail), dict(error.headers or {}))
    if isinstance(error, ValidationError):
        message, param = validation_message(error)
        return ErrorResponse(invalid, message, param=param)
    if isinstance(error, UserError):
        return ErrorResponse(invalid, str(error), param=getattr(error, "param", None))
    if isinstance(error, QueueFullError):
        return ErrorResponse(429, "the server is busy: the queue is full; try again later", retry)
    if isinstance(error, RequestTimeoutError):
        return ErrorResponse(503, "the request exceeded its time limit", retry)
    if isinstance(error, ClosedError):
        return ErrorResponse(503, "the server is shutting down", retry)
    if isinstance(error, ClientDisconnectedError):
        return ErrorResponse(499, "the client closed the connection")
    if isinstance(error, NonFiniteError):
        return ErrorResponse(500, str(error))
    return ErrorResponse(500, "an internal error occurred")


HANDLED_ERRORS = (
    HTTPException,
    ValidationError,
    UserError,
    QueueFullError,
    RequestTimeoutError,
    ClosedError,
    ClientDisconnectedError,
    NonFiniteError,
)


def register_errors(app: FastAPI) -> None:
    for kind in (*HANDLED_ERRORS, Exception):
        app.add_exception_handler(kind, respond_with_error)


async def respond_with_error(request: Request, error: Exception) -> Response:
    found = error_response(request.url.path, error)
    if found.status == 429:
        await asyncio.sleep(random.uniform(*DELAY_429))
    return AsciiJSON(found.body(request.url.path), status_code=found.status, headers=found.headers)


def validation_message(error: ValidationError) -> tuple[str, str | None]:
    """Return one sentence about the first error (key, value, what is allowed), and the key; None for the whole body."""
    first = error.errors(include_url=False)[0]
    key = ""
    for part in first["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f"{'.' * bool(key)}{part}"
    param = shorten_to_ascii(key) if key else None
    name = param or "the body"
    if first["type"] in ("missing", "extra_forbidden"):
        return f"{name} {'is missing' if first['type'] == 'missing' else 'is not a key of this request'}", param
    rule = str(first.get("ctx", {}).get("error")) if first["type"] == "value_error" else first["msg"]
    rule = rule[0].lower() + rule[1:]
    return f"{name}={shorten_to_ascii(shown_json(first.get('input')))} is not allowed: {rule}", param


def shown_json(value: Any) -> str:
    try:
        return json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        return "..."


def shorten_to_ascii(text: str) -> str:
    short = text if len(text) <= MAX_SHOWN_VALUE else text[:MAX_SHOWN_VALUE] + "..."
    return short.encode("ascii", "backslashreplace").decode()


STATUS_DESCRIPTIONS = {
    400: "the body is not valid JSON, or a value is not allowed",
    401: "the key is missing or wrong",
    403: "the Host is not allowed",
    404: "not found",
    408: "the body took too long to arrive",
    413: "the body is too large",
    415: "the body is not application/json",
    422: "a value is not allowed",
    429: "the queue is full",
    503: "the request exceeded its time limit, or the server is shutting down",
}


def error_responses(*statuses: int, model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of a route's error responses."""
    return {status: {"description": STATUS_DESCRIPTIONS[status], "model": model} for status in statuses}
