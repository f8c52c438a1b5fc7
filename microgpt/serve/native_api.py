"""The routes of /microgpt/v1: texts, chat, and for the page tokens with their probabilities and attention."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from microgpt.data.conversations import Turn
from microgpt.errors import UserError
from microgpt.serve import native_schemas
from microgpt.serve.errors import AsciiJSON, documented, explained
from microgpt.serve.generation_queue import Asked, Drawn, Ticket
from microgpt.serve.middleware import Guarded
from microgpt.serve.model import ServedModel
from microgpt.serve.service import service_of
from microgpt.serve.streaming import event

PREFIX = "/microgpt/v1"
router = APIRouter(prefix=PREFIX, tags=["microgpt"], route_class=Guarded)
ERRORS = documented(400, 401, 408, 413, 415, 422, 429, 503, model=native_schemas.Error)


@router.get("/model", response_model=native_schemas.ModelCard, responses=documented(401, model=native_schemas.Error))
async def card(request: Request) -> Response:
    """The model that is served."""
    return AsciiJSON(service_of(request).model.card())


@router.post("/generate", response_model=native_schemas.GenerateAnswer, responses=ERRORS)
async def generate(request: Request, asked: native_schemas.GenerateRequest) -> Response:
    """Texts that go on from a prompt: those of `task=sample sample.seed=<seed>`."""
    service = service_of(request)
    prompt = service.model.prompt(asked.prompt)
    policy = service.model.policy(len(prompt), asked.temperature, asked.max_tokens, asked.top_k)
    texts = await service.whole(request, Asked([prompt] * asked.num_samples, policy, asked.seed))
    return AsciiJSON({"samples": [text.text for text in texts]})


@router.post("/chat", response_model=native_schemas.ChatAnswer, responses=ERRORS)
async def chat(request: Request, asked: native_schemas.ChatRequest) -> Response:
    """The answer of a chat model."""
    service = service_of(request)
    prompt, dropped = service.model.conversation(turns(asked.messages))
    policy = service.model.policy(len(prompt), asked.temperature, asked.max_tokens, asked.top_k)
    (text,) = await service.whole(request, Asked([prompt], policy, asked.seed))
    return AsciiJSON({"role": "assistant", "content": text.text, "tokens_dropped": dropped})


@router.post(
    "/stream",
    response_class=Response,
    responses=ERRORS | {200: {"content": {"text/event-stream": {}}}},
)
async def stream(request: Request, asked: native_schemas.StreamRequest) -> Response:
    """One text, token by token: events of the types start, token, end and error, each a JSON object.

    A token has the probability that it was drawn with, after temperature, top_k and the style's bias, and the likeliest
    candidates beside it.
    """
    service = service_of(request)
    model = service.model
    if (asked.prompt is None) == (asked.messages is None):
        raise UserError("one of prompt and messages is needed, and only one")
    if asked.messages is not None:
        prompt, dropped = model.conversation(turns(asked.messages))
    else:
        prompt, dropped = model.prompt(asked.prompt or ""), 0
    policy = model.policy(len(prompt), asked.temperature, asked.max_tokens, asked.top_k)

    async def events(ticket: Ticket) -> AsyncIterator[str]:
        yield event({"type": "start", "tokens_dropped": dropped, "prompt_tokens": len(prompt)})
        count = 0
        async for drawn in service.tokens(ticket):
            yield event(token_event(model, drawn, asked.candidates))
            count += drawn.stop_reason != "end"
            if drawn.stop_reason is not None:
                yield event({"type": "end", "stop_reason": drawn.stop_reason, "completion_tokens": count})

    def told(error: Exception) -> str:
        return event({"type": "error", "error": explained(PREFIX, error)[1]})

    return service.stream(Asked([prompt], policy, asked.seed, streaming=True, with_probs=True), events, told)


@router.post("/attention", response_model=native_schemas.AttentionAnswer, responses=ERRORS)
async def attention(request: Request, asked: native_schemas.AttentionRequest) -> Response:
    """What every head looks at in a text, and the loss of each of its tokens."""
    model = service_of(request).model
    if (asked.text is None) == (asked.messages is None):
        raise UserError("one of text and messages is needed, and only one")
    if asked.messages is not None:
        tokens = model.whole_conversation(turns(asked.messages))
    else:
        tokens = model.prompt(asked.text or "", "text")
    return Response(await model.attention(tokens), media_type="application/json")


def turns(messages: Sequence[native_schemas.Message]) -> list[Turn]:
    return [Turn(message.role, message.content) for message in messages]


def token_event(model: ServedModel, drawn: Drawn, candidates: int) -> dict[str, Any]:
    assert drawn.probs is not None
    probs = drawn.probs
    likeliest = sorted(range(len(probs)), key=lambda token: -probs[token])[:candidates]
    return {
        "type": "token",
        **with_probability(model, drawn.token, probs),
        "candidates": [with_probability(model, token, probs) for token in likeliest if probs[token] > 0],
    }


def with_probability(model: ServedModel, token: int, probs: Sequence[float]) -> dict[str, Any]:
    return {**model.token(token), "probability": round(probs[token], 9)}
