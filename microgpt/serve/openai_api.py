"""The OpenAI-compatible routes under /v1: models, completions and chat completions, as a whole or as a stream."""

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from microgpt.data.conversations import Turn
from microgpt.serve import openai_schemas as schemas
from microgpt.serve.errors import AsciiJSON, error_response, error_responses, naming, to_json
from microgpt.serve.generation import GeneratedText, Generation, GenerationRequest
from microgpt.serve.middleware import CheckedRoute
from microgpt.serve.model import ServedModel
from microgpt.serve.service import Service, service_of
from microgpt.serve.streaming import event

PREFIX = "/v1"
router = APIRouter(prefix=PREFIX, tags=["OpenAI-compatible"], route_class=CheckedRoute)
ERRORS = error_responses(400, 401, 404, 408, 413, 415, 429, 503, model=schemas.OpenAIError)
ERRORS[200] = {"content": {"text/event-stream": {}}}
MISSING = error_responses(401, 404, model=schemas.OpenAIError)
FINISH = {"end": "stop", "stop": "stop", "length": "length", "block": "length"}
Choice = dict[str, Any]


@router.get("/models", response_model=schemas.ModelList, responses=error_responses(401, model=schemas.OpenAIError))
async def models(request: Request) -> Response:
    """List the served model."""
    return AsciiJSON({"object": "list", "data": [entry(service_of(request).model)]})


@router.get("/models/{id:path}", response_model=schemas.ModelEntry, responses=MISSING)
async def model(request: Request, id: str) -> Response:
    """Return the served model if it has this id."""
    served = service_of(request).model
    check_model_id(served, id)
    return AsciiJSON(entry(served))


@router.post("/completions", response_model=schemas.CompletionAnswer, responses=ERRORS)
async def completions(request: Request, body: schemas.CompletionRequest) -> Response:
    """Generate completions for one or more prompts."""
    service = accept(request, body)
    texts = [text for text in body.prompts for _ in range(body.n or 1)]
    with naming("prompt"):
        prompts = [service.model.prompt(text) for text in texts]
    shape = Completions(texts if body.echo else [""] * len(texts))
    return await respond(request, service, body, prompts, body.max_tokens, shape)


@router.post("/chat/completions", response_model=schemas.ChatCompletionAnswer, responses=ERRORS)
async def chat_completions(request: Request, body: schemas.ChatCompletionRequest) -> Response:
    """Generate a chat model's answer. If a conversation is too long, its oldest turns are dropped."""
    service = accept(request, body)
    with naming("messages"):
        prompt, _ = service.model.conversation([Turn(message.role, message.text) for message in body.messages])
    most = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return await respond(request, service, body, [prompt] * (body.n or 1), most, ChatCompletions())


class Completions:
    """The choices of /v1/completions."""

    prefix, whole_object, chunk_object = "cmpl-", "text_completion", "text_completion"

    def __init__(self, echoes: Sequence[str]):
        self.echoes = echoes  # the prompt to repeat before each text, or empty strings

    def whole(self, index: int, text: GeneratedText) -> Choice:
        return self.piece(index, self.echoes[index] + text.text) | {"finish_reason": FINISH[text.stop_reason]}

    def begin(self, index: int) -> Choice:
        return self.piece(index, self.echoes[index])

    def piece(self, index: int, text: str) -> Choice:
        return {"index": index, "text": text, "finish_reason": None, "logprobs": None}

    def end(self, index: int, finish_reason: str) -> Choice:
        return self.piece(index, "") | {"finish_reason": finish_reason}


class ChatCompletions:
    """The choices of /v1/chat/completions."""

    prefix, whole_object, chunk_object = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def whole(self, index: int, text: GeneratedText) -> Choice:
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


def accept(request: Request, body: schemas.CompletionOptions) -> Service:
    """Return the service. Raises RequestError for an unsupported key, HTTPException 404 for another model."""
    service = service_of(request)
    body.check_supported()
    check_model_id(service.model, body.model)
    return service


def check_model_id(served: ServedModel, id: str) -> None:
    if id != served.id:
        name = id[:60].encode("ascii", "backslashreplace").decode()
        raise HTTPException(404, f"the model {name!r} does not exist: this server has {served.id!r}")


@dataclass(frozen=True)
class Chunks:
    """The server-sent events of a stream. The second to last event has the usage, unless `prompt_tokens` is None."""

    head: dict[str, Any]
    shape: Completions | ChatCompletions
    prompt_tokens: int | None

    @cached_property
    def around_choice(self) -> tuple[str, str]:
        """The JSON before and after the choice of a chunk, which is the same in all chunks."""
        chunk = {**self.head, "choices": [0], **({} if self.prompt_tokens is None else {"usage": None})}
        before, _, after = to_json(chunk).rpartition("[0]")
        return f"data: {before}[", f"]{after}\n\n"

    def chunk(self, choice: Choice) -> str:
        before, after = self.around_choice
        return before + to_json(choice) + after

    async def of_generation(self, generation: Generation) -> AsyncIterator[str]:
        index, count = -1, 0
        async for tokens in generation.tokens():
            pieces: list[str] = []
            for token in tokens:
                if token.number > index:
                    index = token.number
                    pieces.append(self.chunk(self.shape.begin(index)))
                count += token.stop_reason != "end"
                if token.text:
                    pieces.append(self.chunk(self.shape.piece(index, token.text)))
                if token.stop_reason is not None:
                    pieces.append(self.chunk(self.shape.end(index, FINISH[token.stop_reason])))
            yield "".join(pieces)
        for each in self.closing(count):
            yield each

    async def of_empty(self, texts: int) -> AsyncIterator[str]:
        """Yield the events of texts without tokens (max_tokens=0)."""
        for index in range(texts):
            yield self.chunk(self.shape.begin(index))
            yield self.chunk(self.shape.end(index, "length"))
        for each in self.closing(0):
            yield each

    def closing(self, tokens: int) -> Iterator[str]:
        if self.prompt_tokens is not None:
            yield event({**self.head, "choices": [], "usage": usage(self.prompt_tokens, tokens)})
        yield "data: [DONE]\n\n"

    def error(self, error: Exception) -> str:
        return event(error_response(PREFIX, error).body(PREFIX))


async def respond(
    request: Request,
    service: Service,
    body: schemas.CompletionOptions,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | None,
    shape: Completions | ChatCompletions,
) -> Response:
    """Generate one text for each prompt, and return the texts as a whole or as a stream."""
    longest = max(map(len, prompts))
    temperature = 1.0 if body.temperature is None else body.temperature
    with naming("max_tokens"):
        policy = service.model.policy(longest, temperature, max_tokens or None, body.top_k)
    seed = secrets.randbelow(2**63) if body.seed is None else body.seed
    wanted = GenerationRequest(prompts, policy, seed, body.stops, streaming=bool(body.stream))
    head = {
        "id": shape.prefix + secrets.token_hex(12),
        "object": shape.chunk_object if body.stream else shape.whole_object,
        "created": int(time.time()),
        "model": service.model.id,
        "system_fingerprint": service.model.fingerprint,
    }
    prompt_tokens = sum(map(len, prompts[:: body.n or 1]))  # count a prompt of several texts once
    if body.stream:
        chunks = Chunks(head, shape, prompt_tokens if body.include_usage else None)
        if max_tokens == 0:
            return StreamingResponse(chunks.of_empty(len(prompts)), media_type="text/event-stream")
        return service.stream(wanted, chunks.of_generation, chunks.error)
    empty = [GeneratedText("", "length", 0)] * len(prompts)
    texts = empty if max_tokens == 0 else await service.generate(request, wanted)
    choices = [shape.whole(index, text) for index, text in enumerate(texts)]
    return AsciiJSON({**head, "choices": choices, "usage": usage(prompt_tokens, sum(text.tokens for text in texts))})


def entry(served: ServedModel) -> dict[str, Any]:
    return {"id": served.id, "object": "model", "created": served.created, "owned_by": "microgpt"}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
