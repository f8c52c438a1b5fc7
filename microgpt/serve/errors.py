"""Every error as JSON: {"error": sentence}, below /v1 as OpenAI's clients expect it. No path or stack in any."""

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
from microgpt.serve.model import TooManyLooksError

SHOWN_VALUE = 60  # characters of a refused value that its error repeats
RETRY_AFTER = "1"  # seconds
REFUSAL_SECONDS = (0.25, 0.75)  # before a 429, at random: clients that ask again at once would leave time for nothing
KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class TimeIsUpError(Exception):
    """A request took longer than it may."""


class UnsupportedError(UserError):
    """A key of the OpenAI API that this server does not have."""


class AsciiJSON(JSONResponse):
    """JSON that can hold any string, also half a surrogate pair that a request brought."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def is_openai(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")


def body_of(path: str, status: int, sentence: str, code: str | None = None) -> dict[str, Any]:
    if not is_openai(path):
        return {"error": sentence}
    kind = KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": sentence, "type": kind, "param": None, "code": code}}


def answer(
    path: str, status: int, sentence: str, headers: dict[str, str] | None = None, code: str | None = None
) -> Response:
    return AsciiJSON(body_of(path, status, sentence, code), status_code=status, headers=headers)


def explained(path: str, error: Exception) -> tuple[int, str, dict[str, str]]:
    """Status, sentence and headers for what is no bug. Of OpenAI's API a wrong value is 400, of ours 422."""
    wrong = 400 if is_openai(path) else 422
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), dict(error.headers or {})
    if isinstance(error, RequestValidationError):
        return wrong, sentence_of(error), {}
    if isinstance(error, UserError):
        return wrong, str(error), {}
    if isinstance(error, QueueFullError | TooManyLooksError):
        return 429, "the server is busy: as many requests wait as may; try again later", {"Retry-After": RETRY_AFTER}
    if isinstance(error, TimeIsUpError):
        return 503, "the time for this request is up", {"Retry-After": RETRY_AFTER}
    if isinstance(error, ClosedError):
        return 503, "the server is shutting down", {"Retry-After": RETRY_AFTER}
    if isinstance(error, NonFiniteError):
        return 500, str(error), {}
    return 500, "an internal error occurred", {}


EXPLAINED = (
    HTTPException,
    RequestValidationError,
    UserError,
    QueueFullError,
    TooManyLooksError,
    TimeIsUpError,
    ClosedError,
    NonFiniteError,
)


def register_errors(app: FastAPI) -> None:
    async def handle(request: Request, error: Exception) -> Response:
        status, sentence, headers = explained(request.url.path, error)
        if status == 429:
            await asyncio.sleep(random.uniform(*REFUSAL_SECONDS))
        return answer(request.url.path, status, sentence, headers)

    for kind in (*EXPLAINED, Exception):
        app.add_exception_handler(kind, handle)


def sentence_of(error: RequestValidationError) -> str:
    """The first thing that is wrong: key, value, what is allowed."""
    first = error.errors()[0]
    key = ""
    for part in first["loc"][1:]:
        key += f"[{part}]" if isinstance(part, int) else f"{'.' * bool(key)}{part}"
    key, said = ascii_of(key) if key else "the body", first["msg"]
    said = said[0].lower() + said[1:]
    if first["type"] in ("missing", "extra_forbidden"):
        known = "is missing" if first["type"] == "missing" else "is not a key of this request"
        return f"{key} {known}"
    return f"{key}={ascii_of(shown(first.get('input')))} is not allowed: {said}"


def shown(value: Any) -> str:
    try:
        return json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        return "..."


def ascii_of(text: str) -> str:
    short = text if len(text) <= SHOWN_VALUE else text[:SHOWN_VALUE] + "..."
    return short.encode("ascii", "backslashreplace").decode()


WHAT = {
    400: "not valid JSON, or not allowed",
    401: "the key is missing or wrong",
    404: "there is no such thing",
    408: "the body took too long to arrive",
    413: "the body is too large",
    415: "the body is not application/json",
    422: "a value is not allowed",
    429: "as many requests wait as may",
    503: "the time is up, or the server is shutting down",
}


def documented(*statuses: int, model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: errors that a route may answer with, and what they look like."""
    return {status: {"description": WHAT[status], "model": model} for status in statuses}
