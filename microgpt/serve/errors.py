"""Errors as JSON: {"error": message}, below /v1 in OpenAI's format. None contains a path or a stack trace."""

import asyncio
import json
import random
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from microgpt.errors import NonFiniteError, UserError
from microgpt.serve.generation_queue import ClosedError, QueueFullError
from microgpt.serve.model import AttentionQueueFullError

MAX_SHOWN_VALUE = 60  # characters of a value that an error repeats
RETRY_AFTER = "1"  # seconds
DELAY_429 = (0.25, 0.75)  # random delay of a 429, so that clients that retry at once do not keep the server busy
OPENAI_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class RequestTimeoutError(Exception):
    """A request has reached its time limit."""


class UnsupportedError(UserError):
    """A key of the OpenAI API that this server does not support."""


class AsciiJSON(JSONResponse):
    """JSON in ASCII, which can represent any string, even half a surrogate pair from a request."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def is_openai(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def error_body(path: str, status: int, message: str, code: str | None = None) -> dict[str, Any]:
    if not is_openai(path):
        return {"error": message}
    kind = OPENAI_ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def respond(
    path: str, status: int, message: str, headers: dict[str, str] | None = None, code: str | None = None
) -> Response:
    return AsciiJSON(error_body(path, status, message, code), status_code=status, headers=headers)


def error_response(path: str, error: Exception) -> tuple[int, str, dict[str, str]]:
    """Return status, message and headers. An invalid value is 400 in OpenAI's API, 422 in the native one."""
    invalid = 400 if is_openai(path) else 422
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), dict(error.headers or {})
    if isinstance(error, RequestValidationError):
        return invalid, validation_message(error), {}
    if isinstance(error, UserError):
        return invalid, str(error), {}
    if isinstance(error, QueueFullError | AttentionQueueFullError):
        return 429, "the server is busy: the queue is full; try again later", {"Retry-After": RETRY_AFTER}
    if isinstance(error, RequestTimeoutError):
        return 503, "the time limit of this request has passed", {"Retry-After": RETRY_AFTER}
    if isinstance(error, ClosedError):
        return 503, "the server is shutting down", {"Retry-After": RETRY_AFTER}
    if isinstance(error, NonFiniteError):
        return 500, str(error), {}
    return 500, "an internal error occurred", {}


HANDLED_ERRORS = (
    HTTPException,
    RequestValidationError,
    UserError,
    QueueFullError,
    AttentionQueueFullError,
    RequestTimeoutError,
    ClosedError,
    NonFiniteError,
)


def register_errors(app: FastAPI) -> None:
    async def handle(request: Request, error: Exception) -> Response:
        status, message, headers = error_response(request.url.path, error)
        if status == 429:
            await asyncio.sleep(random.uniform(*DELAY_429))
        return respond(request.url.path, status, message, headers)

    for kind in (*HANDLED_ERRORS, Exception):
        app.add_exception_handler(kind, handle)


def validation_message(error: RequestValidationError) -> str:
    """Return a sentence about the first error: key, value, what is allowed."""
    first = error.errors()[0]
    key = ""
    for part in first["loc"][1:]:
        key += f"[{part}]" if isinstance(part, int) else f"{'.' * bool(key)}{part}"
    key, rule = shorten_to_ascii(key) if key else "the body", first["msg"]
    rule = rule[0].lower() + rule[1:]
    if first["type"] in ("missing", "extra_forbidden"):
        known = "is missing" if first["type"] == "missing" else "is not a key of this request"
        return f"{key} {known}"
    return f"{key}={shorten_to_ascii(to_json(first.get('input')))} is not allowed: {rule}"


def to_json(value: Any) -> str:
    try:
        return json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        return "..."


def shorten_to_ascii(text: str) -> str:
    short = text if len(text) <= MAX_SHOWN_VALUE else text[:MAX_SHOWN_VALUE] + "..."
    return short.encode("ascii", "backslashreplace").decode()


STATUS_DESCRIPTIONS = {
    400: "not valid JSON, or not allowed",
    401: "the key is missing or wrong",
    404: "not found",
    408: "the body took too long to arrive",
    413: "the body is too large",
    415: "the body is not application/json",
    422: "a value is not allowed",
    429: "the queue is full",
    503: "the time limit has passed, or the server is shutting down",
}


def error_responses(*statuses: int, model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of a route's error responses."""
    return {status: {"description": STATUS_DESCRIPTIONS[status], "model": model} for status in statuses}
