"""The model that is served: texts and conversations to prompts, limits, and its card. Knows nothing of HTTP."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from microgpt.data.conversations import USER, Turn, encode_prompt_turns, encode_turn, prompt_room
from microgpt.errors import UserError
from microgpt.inference.attention_maps import look
from microgpt.inference.generation import SamplingPolicy, encode_prompt
from microgpt.inference.loading import Trained
from microgpt.runs.history import History
from microgpt.serve.native_schemas import MOST_CANDIDATES, MOST_SAMPLES

MOST_POINTS = 1000  # of the loss curve
DECIMALS = 4  # of attention and losses
MOST_LOOKS = 4  # requests for attention that wait for the one under way


class TooManyLooksError(Exception):
    """As many requests for attention wait as may."""


class ServedModel:
    """A trained model, which never changes while it is served. Raises UserError for weights that are no numbers."""

    def __init__(self, trained: Trained, max_new_tokens: int):
        if not trained.checkpoint.state.is_finite():
            raise UserError(f"checkpoint {trained.checkpoint.path} has weights that are not finite")
        self.trained = trained
        self.tokenizer, self.block_size = trained.tokenizer, trained.block_size
        self.max_new_tokens = max_new_tokens
        meta = trained.checkpoint.meta
        self.id = str(meta.model)
        self.created = int((trained.checkpoint.path / "meta.json").stat().st_mtime)
        self.fingerprint = f"fp_{digest(trained.checkpoint.state.parameters)}"
        self.names = {
            id: name for name, id in {**self.tokenizer.special_ids, "bos": self.tokenizer.bos}.items()
        }  # of tokens without text
        self.looking = threading.Lock()
        self.looks = 0

    # Prompts

    def prompt(self, text: str, name: str = "prompt") -> list[int]:
        """What a text goes on from; a chat model answers it. Raises UserError, which calls the text `name`."""
        if self.trained.is_chat:
            return self.conversation([Turn(USER, text)])[0]
        return encode_prompt(text, self.tokenizer, self.block_size, name)

    def conversation(self, turns: Sequence[Turn]) -> tuple[list[int], int]:
        """The prompt of a conversation, and how many tokens were left out of it so that it fits. Raises UserError."""
        self.require_chat()
        return encode_prompt_turns(turns, self.tokenizer, self.block_size)

    def require_chat(self) -> None:
        if not self.trained.is_chat:
            raise UserError("messages are not allowed: this model is not a chat model; it continues a prompt")

    def whole_conversation(self, turns: Sequence[Turn]) -> list[int]:
        """A conversation to look at, whoever had the last word. Raises UserError where it does not fit the block."""
        self.require_chat()
        tokens = [self.tokenizer.bos, *(t for turn in turns for t in encode_turn(turn, self.tokenizer, True))]
        if len(tokens) > self.block_size:
            raise UserError(f"messages of {len(tokens)} tokens are too long: the model sees {self.block_size} at once")
        return tokens

    def policy(
        self, prompt_tokens: int, temperature: float, max_tokens: int | None, top_k: int | None = None
    ) -> SamplingPolicy:
        """How a request's texts are drawn. Raises UserError for more tokens than a request may have."""
        if max_tokens is not None and max_tokens > self.max_new_tokens:
            raise UserError(f"max_tokens={max_tokens} is not allowed: at most {self.max_new_tokens}")
        if max_tokens is None and self.block_size - prompt_tokens + 1 > self.max_new_tokens:
            max_tokens = self.max_new_tokens
        return replace(self.trained.policy, temperature=temperature, top_k=top_k, max_new_tokens=max_tokens)

    # What is inside

    def token(self, id: int) -> dict[str, Any]:
        return {"id": id, "text": self.tokenizer.decode([id]), "special": self.names.get(id)}

    async def attention(self, tokens: list[int]) -> bytes:
        """What every head looks at, as JSON. Raises TooManyLooksError."""
        if self.looks > MOST_LOOKS:
            raise TooManyLooksError
        self.looks += 1
        try:
            return await asyncio.to_thread(self.look, tokens)
        finally:
            self.looks -= 1

    def look(self, tokens: list[int]) -> bytes:
        with self.looking:
            found = look(self.trained.checkpoint.meta.spec, self.trained.checkpoint.state.parameters, tokens)
        told = {
            "tokens": [self.token(token) for token in tokens],
            "losses": [None, *np.round(found.losses[1:], DECIMALS).tolist()],
        }
        return f'{json.dumps(told)[:-1]},"attention":{as_json(found.attention)}}}'.encode()

    def card(self) -> dict[str, Any]:
        checkpoint, info = self.trained.checkpoint, self.trained.engine.info
        meta, train = checkpoint.meta, checkpoint.progress
        spec = meta.spec.to_dict()
        history = self.history()
        losses = [point["val_loss"] for point in history if point["val_loss"] is not None]
        return {
            **{key: spec[key] for key in ("kind", "block_size", "n_embd", "n_head", "n_layer", "tie_lm_head",
                                          "input_rmsnorm", "activation", "vocab_size")},
            "id": self.id,
            "is_chat": self.trained.is_chat,
            "parameters": meta.spec.parameter_count(),
            "characters": meta.chars,
            "special_tokens": list(meta.special),
            "style": meta.style.get("name"),
            "step": checkpoint.step,
            "seed": train.seed,
            "backend": info.backend,
            "device": info.device,
            "using_gpu": info.using_gpu,
            "dtype": info.dtype,
            "tensors": [{"name": name, "shape": list(shape)} for name, shape in meta.spec.shapes().items()],
            "val_loss": losses[-1] if losses else None,
            "history": history,
            "limits": {
                "max_new_tokens": self.max_new_tokens,
                "max_num_samples": MOST_SAMPLES,
                "max_candidates": MOST_CANDIDATES,
                "max_text_tokens": self.block_size,
                "max_chat_prompt_tokens": prompt_room(self.block_size),
            },
        }  # fmt: skip

    def history(self) -> list[dict[str, Any]]:
        """The loss curve up to this checkpoint, thinned; empty where the run's folder is not there."""
        checkpoint = self.trained.checkpoint
        if checkpoint.path.parent.name != "checkpoint":
            return []
        lines = History(checkpoint.path.parents[1] / "history.jsonl").lines()
        points = [{key: line.get(key) for key in ("step", "loss", "val_loss")} for line in lines]
        points = [point for point in points if point["step"] <= checkpoint.progress.step]
        every = -(-len(points) // MOST_POINTS)
        return [point for i, point in enumerate(points) if i % every == 0 or point["val_loss"] is not None]


def as_json(array: np.ndarray) -> str:
    """Nested lists of rounded numbers, a row at a time: megabytes in one go would keep the event loop waiting."""
    if array.ndim == 1:
        return json.dumps(np.round(array, DECIMALS).tolist(), allow_nan=False, separators=(",", ":"))
    return f"[{','.join(map(as_json, array))}]"


def digest(parameters: dict[str, np.ndarray]) -> str:
    """Names a model by its weights."""
    found = hashlib.sha256()
    for name in sorted(parameters):
        found.update(name.encode() + np.ascontiguousarray(parameters[name]).tobytes())
    return found.hexdigest()[:12]
