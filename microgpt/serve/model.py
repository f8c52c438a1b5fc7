"""The served model: prompts from texts and conversations, sampling policies, attention weights, and the model card."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from microgpt.data.conversations import USER, Turn, encode_prompt_turns, encode_turn
from microgpt.errors import UserError
from microgpt.inference.attention_maps import forward
from microgpt.inference.loading import TrainedModel
from microgpt.inference.prompts import encode_prompt
from microgpt.inference.sampling import SamplingPolicy
from microgpt.serve.card import model_card, packed_weights, why_not_trainable
from microgpt.serve.errors import QueueFullError

DECIMALS = 4  # decimal places of attention weights and losses
MAX_ATTENTION_QUEUE = 4  # attention requests that may wait for the current one


class ServedModel:
    """A trained model, immutable while it is served. Raises UserError for non-finite weights."""

    def __init__(self, trained: TrainedModel, max_new_tokens: int):
        if not trained.checkpoint.state.is_finite():
            raise UserError(f"checkpoint {trained.checkpoint.path} contains non-finite weights")
        self.trained = trained
        self.tokenizer, self.block_size = trained.tokenizer, trained.block_size
        self.max_new_tokens = max_new_tokens
        meta = trained.checkpoint.meta
        self.id = str(meta.model)
        self.created = int(trained.checkpoint.path.stat().st_mtime)
        self.fingerprint = f"fp_{digest(trained.checkpoint.state.parameters)}"
        self.names = {
            id: name for name, id in {**self.tokenizer.special_ids, "bos": self.tokenizer.bos}.items()
        }  # names of tokens without text
        self.tokens = [
            {"id": id, "text": self.tokenizer.decode([id]), "special": self.names.get(id)}
            for id in range(self.tokenizer.vocab_size)
        ]
        self.attention_lock = threading.Lock()
        self.attention_requests = 0

    def prompt(self, text: str, name: str = "prompt") -> list[int]:
        """Return the tokens of a prompt or, for a chat model, of a user turn. Raises UserError with the key."""
        if self.trained.is_chat:
            return self.conversation([Turn(USER, text)])[0]
        return encode_prompt(text, self.tokenizer, self.block_size, name)

    def conversation(self, turns: Sequence[Turn]) -> tuple[list[int], int]:
        """Return the prompt of a conversation, and the number of tokens dropped to make it fit. Raises UserError."""
        self.require_chat()
        return encode_prompt_turns(turns, self.tokenizer, self.block_size)

    def require_chat(self) -> None:
        if not self.trained.is_chat:
            raise UserError("messages are not allowed: this model is not a chat model; it continues a prompt")

    def whole_conversation(self, turns: Sequence[Turn]) -> list[int]:
        """Return the tokens of a conversation that may end with any role. Raises UserError if it does not fit."""
        self.require_chat()
        tokens = [self.tokenizer.bos, *(t for turn in turns for t in encode_turn(turn, self.tokenizer, True))]
        if len(tokens) > self.block_size:
            raise UserError(f"messages of {len(tokens)} tokens are too long: the model sees {self.block_size} at once")
        return tokens

    def policy(
        self, prompt_tokens: int, temperature: float, max_tokens: int | None, top_k: int | None = None
    ) -> SamplingPolicy:
        """Return the sampling policy of a request. Raises UserError for too many tokens."""
        if max_tokens is not None and max_tokens > self.max_new_tokens:
            raise UserError(f"max_tokens={max_tokens} is not allowed: it must be at most {self.max_new_tokens}")
        if max_tokens is None and self.block_size - prompt_tokens + 1 > self.max_new_tokens:
            max_tokens = self.max_new_tokens
        return replace(self.trained.policy, temperature=temperature, top_k=top_k, max_new_tokens=max_tokens)

    async def attention(self, tokens: list[int]) -> bytes:
        """Return the attention weights of every head as JSON. Raises QueueFullError."""
        if self.attention_requests > MAX_ATTENTION_QUEUE:
            raise QueueFullError
        self.attention_requests += 1
        try:
            return await asyncio.to_thread(self.compute_attention, tokens)
        finally:
            self.attention_requests -= 1

    def compute_attention(self, tokens: list[int]) -> bytes:
        with self.attention_lock:
            found = forward(self.trained.checkpoint.meta.spec, self.trained.checkpoint.state.parameters, tokens)
        content = {
            "tokens": [self.tokens[token] for token in tokens],
            "losses": [None, *np.round(found.losses[1:], DECIMALS).tolist()],
        }
        return f'{json.dumps(content)[:-1]},"attention":{as_json(found.attention)}}}'.encode()

    def card(self) -> dict[str, Any]:
        return model_card(self.trained.checkpoint, self.trained.engine.info, self.max_new_tokens)

    def weights(self) -> bytes:
        """Return all tensors in the order of the card, as little-endian float32, for training on the page.

        Raises UserError if the page cannot train the model.
        """
        meta = self.trained.checkpoint.meta
        if reason := why_not_trainable(meta.spec, meta.special):
            raise UserError(reason)
        return packed_weights(meta.spec, self.trained.checkpoint.state.parameters)


def as_json(array: np.ndarray) -> str:
    """Return nested JSON lists of rounded numbers, row by row, because one call for megabytes would hold the GIL."""
    if array.ndim == 1:
        return json.dumps(np.round(array, DECIMALS).tolist(), allow_nan=False, separators=(",", ":"))
    return f"[{','.join(map(as_json, array))}]"


def digest(parameters: dict[str, np.ndarray]) -> str:
    """Return 12 hex digits that identify a model by its weights."""
    found = hashlib.sha256()
    for name in sorted(parameters):
        found.update(name.encode() + np.ascontiguousarray(parameters[name]).tobytes())
    return found.hexdigest()[:12]
