"""The routes of /v1, as OpenAI's clients know them: models, completions, chat completions, whole or as a stream."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from microgpt.data.conversations import Turn
from microgpt.serve import openai_schemas as schemas
from microgpt.serve.errors import AsciiJSON, body_of, documented, explained
from microgpt.serve.generation_queue import Asked, Ticket
from microgpt.serve.middleware import Guarded
from microgpt.serve.model import ServedModel
from microgpt.serve.service import Service, Text, service_of
from microgpt.serve.streaming import event

PREFIX = "/v1"
router = APIRouter(prefix=PREFIX, tags=["OpenAI-compatible"], route_class=Guarded)
ERRORS = documented(400, 401, 404, 408, 413, 415, 429, 503, model=schemas.OpenAIError)
ERRORS[200] = {"content": {"text/event-stream": {}}}
MISSING = documented(401, 404, model=schemas.OpenAIError)
FINISH = {"end": "stop", "stop": "stop", "length": "length", "block": "length"}
Choice = dict[str, Any]


@router.get("/models", response_model=schemas.ModelList, responses=documented(401, model=schemas.OpenAIError))
async def models(request: Request) -> Response:
    """The one model that is served."""
    return AsciiJSON({"object": "list", "data": [entry(service_of(request).model)]})


@router.get("/models/{id:path}", response_model=schemas.ModelEntry, responses=MISSING)
async def model(request: Request, id: str) -> Response:
    """That model, by its id."""
    served = service_of(request).model
    refuse_other_model(served, id)
    return AsciiJSON(entry(served))


@router.post("/completions", response_model=schemas.CompletionAnswer, responses=ERRORS)
async def completions(request: Request, asked: schemas.CompletionRequest) -> Response:
    """Texts that go on from a prompt, or from several."""
    service = accept(request, asked)
    texts = [text for text in asked.prompts for _ in range(asked.n or 1)]
    prompts = [service.model.prompt(text) for text in texts]
    shape = Completions(texts if asked.echo else [""] * len(texts))
    return await answer(request, service, asked, prompts, asked.max_tokens, shape)


@router.post("/chat/completions", response_model=schemas.ChatCompletionAnswer, responses=ERRORS)
async def chat_completions(request: Request, asked: schemas.ChatCompletionRequest) -> Response:
    """The answer of a chat model. Of a conversation that is too long for it the oldest turns are left out."""
    service = accept(request, asked)
    prompt, _ = service.model.conversation([Turn(message.role, message.text) for message in asked.messages])
    most = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    return await answer(request, service, asked, [prompt] * (asked.n or 1), most, ChatCompletions())


class Completions:
    """How /v1/completions writes its choices."""

    prefix, whole_object, chunk_object = "cmpl-", "text_completion", "text_completion"

    def __init__(self, echoes: Sequence[str]):
        self.echoes = echoes  # what stands before each text

    def whole(self, index: int, text: Text) -> Choice:
        return self.piece(index, self.echoes[index] + text.text) | {"finish_reason": FINISH[text.stop_reason]}

    def begin(self, index: int) -> Choice:
        return self.piece(index, self.echoes[index])

    def piece(self, index: int, text: str) -> Choice:
        return {"index": index, "text": text, "finish_reason": None, "logprobs": None}

    def end(self, index: int, finish_reason: str) -> Choice:
        return self.piece(index, "") | {"finish_reason": finish_reason}


class ChatCompletions:
    """How /v1/chat/completions writes its choices."""

    prefix, whole_object, chunk_object = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def whole(self, index: int, text: Text) -> Choice:
        message = {"role": "assistant", "content": text.text, "refusal": None}
        return {"index": index, "message": message, "finish_reason": FINISH[text.stop_reason], "logprobs": None}

    def begin(self, index: int) -> Choice:
        return self.delta(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, text: str) -> Choice:
        return self.delta(index, {"content": text})

    def end(self, index: int, finish_reason: str) -> Choice:
        return self.delta(index, {}) | {"finish_reason": finish_reason}

    def delta(self, index: int, delta: dict[str, Any]) -> Choice:
        return {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}


def accept(request: Request, asked: schemas.Asking) -> Service:
    """Raises UnsupportedError and HTTPException 404 for what this server does not have."""
    service = service_of(request)
    asked.refuse_unsupported()
    refuse_other_model(service.model, asked.model)
    return service


def refuse_other_model(served: ServedModel, id: str) -> None:
    if id != served.id:
        name = id[:60].encode("ascii", "backslashreplace").decode()
        raise HTTPException(404, f"the model {name!r} does not exist here: this server has {served.id!r}")


async def answer(
    request: Request,
    service: Service,
    asked: schemas.Asking,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | None,
    shape: Completions | ChatCompletions,
) -> Response:
    """Draw one text for each prompt, and write them as the request wants."""
    longest = max(map(len, prompts))
    temperature = 1.0 if asked.temperature is None else asked.temperature
    policy = service.model.policy(longest, temperature, max_tokens)
    seed = secrets.randbelow(2**63) if asked.seed is None else asked.seed
    drawing = Asked(prompts, policy, seed, asked.stops, streaming=bool(asked.stream))
    head = {
        "id": shape.prefix + secrets.token_hex(12),
        "object": shape.chunk_object if asked.stream else shape.whole_object,
        "created": int(time.time()),
        "model": service.model.id,
        "system_fingerprint": service.model.fingerprint,
    }
    prompt_tokens = sum(map(len, prompts[:: asked.n or 1]))  # several texts of one prompt read it once
    if asked.stream:
        return stream(service, drawing, head, shape, prompt_tokens if asked.tells_usage else None)
    texts = await service.whole(request, drawing)
    choices = [shape.whole(index, text) for index, text in enumerate(texts)]
    return AsciiJSON({**head, "choices": choices, "usage": usage(prompt_tokens, sum(text.tokens for text in texts))})


def stream(
    service: Service,
    drawing: Asked,
    head: dict[str, Any],
    shape: Completions | ChatCompletions,
    prompt_tokens: int | None,
) -> Response:
    """Chunks as server-sent events; the last but one tells the usage where `prompt_tokens` is given."""
    told_usage = {} if prompt_tokens is None else {"usage": None}

    def chunk(*choices: Choice) -> str:
        return event({**head, "choices": choices, **told_usage})

    async def events(ticket: Ticket) -> AsyncIterator[str]:
        begun, tokens = -1, 0
        async for drawn in service.tokens(ticket):
            if drawn.number > begun:
                begun = drawn.number
                yield chunk(shape.begin(begun))
            tokens += drawn.stop_reason != "end"
            if drawn.text:
                yield chunk(shape.piece(begun, drawn.text))
            if drawn.stop_reason is not None:
                yield chunk(shape.end(begun, FINISH[drawn.stop_reason]))
        if prompt_tokens is not None:
            yield event({**head, "choices": [], "usage": usage(prompt_tokens, tokens)})
        yield "data: [DONE]\n\n"

    def told(error: Exception) -> str:
        status, sentence, _ = explained(PREFIX, error)
        return event(body_of(f"{PREFIX}/", status, sentence))

    return service.stream(drawing, events, told)


def entry(served: ServedModel) -> dict[str, Any]:
    return {"id": served.id, "object": "model", "created": served.created, "owned_by": "microgpt"}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
