"""The routes under /microgpt/v1: generation, chat, token streams with probabilities, attention, the model card."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from microgpt.data.conversations import Turn
from microgpt.errors import UserError
from microgpt.serve import microgpt_schemas
from microgpt.serve.errors import AsciiJSON, error_response, error_responses
from microgpt.serve.generation import GeneratedToken, Generation, GenerationRequest
from microgpt.serve.middleware import CheckedRoute
from microgpt.serve.model import ServedModel
from microgpt.serve.service import service_of
from microgpt.serve.streaming import event

PREFIX = "/microgpt/v1"
router = APIRouter(prefix=PREFIX, tags=["microgpt"], route_class=CheckedRoute)
ERRORS = error_responses(400, 401, 408, 413, 415, 422, 429, 503, model=microgpt_schemas.Error)


@router.get(
    "/model", response_model=microgpt_schemas.ModelCard, responses=error_responses(401, model=microgpt_schemas.Error)
)
async def card(request: Request) -> Response:
    """Return the card of the served model."""
    return AsciiJSON(service_of(request).model.card())


@router.get(
    "/weights",
    response_class=Response,
    responses=error_responses(400, 401, model=microgpt_schemas.Error)
    | {200: {"content": {"application/octet-stream": {}}}},
)
async def weights(request: Request) -> Response:
    """Return the weights that the page trains further: all tensors as float32, in the order of the card."""
    return Response(service_of(request).model.weights(), media_type="application/octet-stream")


@router.post("/generate", response_model=microgpt_schemas.GenerateAnswer, responses=ERRORS)
async def generate(request: Request, body: microgpt_schemas.GenerateRequest) -> Response:
    """Generate samples for a prompt. They equal the samples of `task=sample sample.seed=<seed>`."""
    service = service_of(request)
    prompt = service.model.prompt(body.prompt)
    policy = service.model.policy(len(prompt), body.temperature, body.max_tokens, body.top_k)
    texts = await service.generate(request, GenerationRequest([prompt] * body.num_samples, policy, body.seed))
    return AsciiJSON({"samples": [text.text for text in texts]})


@router.post("/chat", response_model=microgpt_schemas.ChatAnswer, responses=ERRORS)
async def chat(request: Request, body: microgpt_schemas.ChatRequest) -> Response:
    """Generate a chat model's answer."""
    service = service_of(request)
    prompt, dropped = service.model.conversation(turns(body.messages))
    policy = service.model.policy(len(prompt), body.temperature, body.max_tokens, body.top_k)
    (text,) = await service.generate(request, GenerationRequest([prompt], policy, body.seed))
    return AsciiJSON({"role": "assistant", "content": text.text, "tokens_dropped": dropped})


@router.post(
    "/stream",
    response_class=Response,
    responses=ERRORS | {200: {"content": {"text/event-stream": {}}}},
)
async def stream(request: Request, body: microgpt_schemas.StreamRequest) -> Response:
    """Stream one text token by token, as JSON events of the types start, token, end and error.

    A token event has the sampling probability after temperature, top_k and the style's bias, and the most likely
    candidates.
    """
    service = service_of(request)
    model = service.model
    if (body.prompt is None) == (body.messages is None):
        raise UserError("exactly one of prompt and messages is required")
    if body.messages is not None:
        prompt, dropped = model.conversation(turns(body.messages))
    else:
        prompt, dropped = model.prompt(body.prompt or ""), 0
    policy = model.policy(len(prompt), body.temperature, body.max_tokens, body.top_k)

    async def events(generation: Generation) -> AsyncIterator[str]:
        yield event({"type": "start", "tokens_dropped": dropped, "prompt_tokens": len(prompt)})
        count = 0
        async for tokens in generation.tokens():
            count += sum(token.stop_reason != "end" for token in tokens)
            pieces = [event(token_event(model, token, body.candidates)) for token in tokens]
            if (reason := tokens[-1].stop_reason) is not None:
                pieces.append(event({"type": "end", "stop_reason": reason, "completion_tokens": count}))
            yield "".join(pieces)

    def error_event(error: Exception) -> str:
        return event({"type": "error", "error": error_response(PREFIX, error).message})

    return service.stream(
        GenerationRequest([prompt], policy, body.seed, streaming=True, with_probs=True), events, error_event
    )


@router.post("/attention", response_model=microgpt_schemas.AttentionAnswer, responses=ERRORS)
async def attention(request: Request, body: microgpt_schemas.AttentionRequest) -> Response:
    """Return the attention weights of every head for a text, and the loss of each token."""
    model = service_of(request).model
    if (body.text is None) == (body.messages is None):
        raise UserError("exactly one of text and messages is required")
    if body.messages is not None:
        tokens = model.whole_conversation(turns(body.messages))
    else:
        tokens = model.prompt(body.text or "", "text")
    return Response(await model.attention(tokens), media_type="application/json")


def turns(messages: Sequence[microgpt_schemas.Message]) -> list[Turn]:
    return [Turn(message.role, message.content) for message in messages]


def token_event(model: ServedModel, token: GeneratedToken, candidates: int) -> dict[str, Any]:
    assert token.probs is not None
    likeliest = np.argsort(-token.probs, kind="stable")[:candidates].tolist()
    probs = token.probs.tolist()
    return {
        "type": "token",
        **with_probability(model, token.token, probs),
        "candidates": [with_probability(model, id, probs) for id in likeliest if probs[id] > 0],
    }


def with_probability(model: ServedModel, token: int, probs: Sequence[float]) -> dict[str, Any]:
    return {**model.tokens[token], "probability": round(probs[token], 9)}
