"""A trained model: generation, logits, losses, attention weights and parameters."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

from microgpt.api.arguments import is_conversation, kind_of, requested
from microgpt.api.overrides import Overrides, keys_of, overrides_of, written
from microgpt.config.schema import Config, SampleConfig
from microgpt.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from microgpt.data.conversations import Turn
    from microgpt.data.tokenizer import Tokenizer
    from microgpt.engines.base import EngineInfo
    from microgpt.inference.generation import Sample
    from microgpt.inference.loading import TrainedModel
    from microgpt.inference.sampling import SamplingPolicy
    from microgpt.model.spec import ModelSpec

Message = Mapping[str, str]  # {"role": "user", "content": "hello"}
Text = str | Sequence[Message]  # a text or, for a chat model, a conversation

LATEST = "latest"
LOADING = ("mode", "backend", "style", "style.phrases", "style.bias", "hydra.searchpath")  # keys that `load` uses
# Keys of sampling -> the arguments of `Model.generate` to use instead
SAMPLING = {f"sample.{name}": name for name in ("prompt", "temperature", "top_k", "max_new_tokens", "seed")}
SAMPLING |= {"sample.num_samples": "n", "seed": "seed"}


def load(checkpoint: str | os.PathLike[str] = LATEST, *overrides: Overrides) -> Model:
    """Return the model of a run, a run's folder, a checkpoint's folder or an export; "latest" is the newest run's.

    Overrides choose the engine ("mode=scalar", "backend=torch", "backend.device=cuda"), the outputs_dir for "latest",
    or the style's bias for generation ("style.bias=0"). mode=tensor is the default. Raises UserError for any other
    override, and if the checkpoint cannot be read or the engine is not available on this machine.
    """
    from microgpt.api.program import compose
    from microgpt.inference.loading import load_model

    if not isinstance(checkpoint, str | os.PathLike):
        raise UserError(f"load takes a folder, a run or {LATEST!r}, not {type(checkpoint).__name__}")
    folder, given = os.fspath(checkpoint), overrides_of(overrides)
    for override, key in zip(given, keys_of(given), strict=True):
        used = (*LOADING, "outputs_dir") if folder == LATEST else LOADING
        if key not in used and not key.startswith("backend."):
            why = f"load uses only {', '.join(used)} and the keys of backend"
            if key in SAMPLING:
                why = f"load does not sample; use the argument {SAMPLING[key]} of model.generate"
            raise UserError(f"{override} is not allowed: {why}")
    mode = [] if "mode" in keys_of(given) else ["mode=tensor"]
    return Model(load_model(*compose(["task=sample", *mode, f"checkpoint={written(folder)}", *given])), given)


class Model:
    """A trained model, as returned by `microgpt.load` and `Run.model`.

    T is the number of tokens of a text: the token at the start of every text (BOS) and its characters. V is the size of
    the vocabulary.
    """

    def __init__(self, trained: TrainedModel, overrides: Sequence[str]):
        self._trained = trained
        self._overrides = overrides

    def __reduce__(self) -> Any:
        """Pickle the model as its path: a copy reads the checkpoint again."""
        return load, (self.path, *(one for one in self._overrides if not one.startswith("outputs_dir=")))

    @property
    def path(self) -> Path:
        """The checkpoint's folder."""
        return self._trained.checkpoint.path

    @property
    def step(self) -> int:
        """The number of training steps of the weights, in this run and in the runs that it continues."""
        return self._trained.checkpoint.step

    @property
    def info(self) -> EngineInfo:
        """The engine that computes the model: backend, device, dtype, ..."""
        return self._trained.engine.info

    @property
    def config(self) -> ModelSpec:
        """The architecture: kind, vocab_size, n_embd, n_head, n_layer, block_size, ..."""
        return self._trained.checkpoint.meta.spec

    @property
    def tokenizer(self) -> Tokenizer:
        """Converts text to token ids (`encode`) and back (`decode`). `bos` is the id of BOS."""
        return self._trained.tokenizer

    @property
    def is_chat(self) -> bool:
        return self._trained.is_chat

    @property
    def style(self) -> dict[str, Any]:
        """The style with which the model was trained: name, documents, phrases, bias. Empty if it is unknown."""
        return self._trained.checkpoint.meta.style

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """The parameters, keyed by tensor name, as read-only arrays of shape (rows, columns).

        A tied model has no separate lm_head; wte is used instead.
        """
        found = {name: array[0].view() for name, array in self._trained.checkpoint.state.parameters.items()}
        for array in found.values():
            array.flags.writeable = False
        return found

    def generate(
        self,
        prompt: str = "",
        n: SupportsIndex = 1,
        *,
        temperature: float = SampleConfig.temperature,
        top_k: SupportsIndex | None = SampleConfig.top_k,
        max_new_tokens: SupportsIndex | None = SampleConfig.max_new_tokens,
        seed: SupportsIndex | None = SampleConfig.seed,
    ) -> list[str]:
        """Return n samples that start with the prompt, the same as `task=sample` prints.

        A chat model answers the prompt, which is the user's turn. With seed=None, sampling continues with the random
        number generator that drew the initial weights, so that equal calls return equal samples. Raises UserError for
        an invalid value, unknown characters, or a prompt that is too long.
        """
        from microgpt.inference.loading import sample_generator
        from microgpt.inference.prompts import sample_prompts

        asked = requested(prompt, temperature, top_k, n, max_new_tokens, seed)
        policy = self._policy(asked)
        (one,) = sample_prompts(asked, self.tokenizer, self.config.block_size, questions=())
        rng = sample_generator(self._trained.checkpoint, asked.seed)
        return [one.text + made.text for made in self._continue([one.tokens] * asked.num_samples, policy, rng)]

    def chat(
        self,
        messages: Text,
        *,
        temperature: float = SampleConfig.temperature,
        top_k: SupportsIndex | None = SampleConfig.top_k,
        max_new_tokens: SupportsIndex | None = SampleConfig.max_new_tokens,
        seed: SupportsIndex | None = SampleConfig.seed,
    ) -> str:
        """Return a chat model's answer to a conversation, or to a text, which is taken as the user's turn.

        The oldest turns are dropped if the conversation does not fit the block. Raises UserError for any other model.
        """
        from microgpt.data.conversations import encode_prompt_turns

        asked = requested("", temperature, top_k, 1, max_new_tokens, seed)
        policy = self._policy(asked)
        prompt, _ = encode_prompt_turns(self._turns(messages), self.tokenizer, self.config.block_size)
        (made,) = self._continue([prompt], policy, random.Random(Config.seed if asked.seed is None else asked.seed))
        return made.text

    def logits(self, text: Text = "") -> np.ndarray:
        """Return the logits (T, V), float64. Row t predicts the token after position t."""
        import numpy as np

        decoder = self._trained.new_decoder()
        return np.array([decoder.feed(token) for token in self._tokens(text)])

    def attention(self, text: Text = "") -> np.ndarray:
        """Return the attention weights (n_layer, n_head, T, T), float64: position s has the weight [.., t, s] for t."""
        from microgpt.inference.attention_maps import forward

        tokens = self._tokens(text)
        return forward(self.config, self._trained.checkpoint.state.parameters, tokens).attention

    def loss(self, texts: Text | Iterable[Text]) -> float:
        """Return the mean loss in nats per target token of a text, or of several texts.

        The targets are the characters and the end of each text.

        A text that is longer than the block is evaluated in windows. In a conversation, only the answers are targets.
        """
        given: Any = list(texts) if isinstance(texts, Iterable) and not isinstance(texts, str | Mapping) else texts
        several = isinstance(given, list) and not any(isinstance(one, Mapping) for one in given)
        examples = [example for text in (given if several else [given]) for example in self._examples(text)]
        if not examples:
            raise UserError("loss needs at least one text")
        return float(self._trained.engine.evaluate(examples)[0])

    def _policy(self, asked: SampleConfig) -> SamplingPolicy:
        """Return the policy with the values of a request and with the phrases and the bias of the model's style."""
        from microgpt.config.validation import check_sample

        check_sample(asked)
        return replace(
            self._trained.policy,
            temperature=asked.temperature,
            top_k=asked.top_k,
            max_new_tokens=asked.max_new_tokens,
        )

    def _continue(
        self, prompts: Sequence[Sequence[int]], policy: SamplingPolicy, rng: random.Random
    ) -> Iterator[Sample]:
        from microgpt.inference.generation import generate_all

        return generate_all(self._trained.engine, 0, self.tokenizer, self.config.block_size, prompts, policy, rng)

    def _turns(self, messages: Text) -> Sequence[Turn]:
        from microgpt.data.conversations import USER, Turn, turns_of

        is_text = isinstance(messages, str)
        if not is_text and not is_conversation(messages):
            raise UserError(
                "a text must be a string or, for a chat model, a list of messages such as "
                f'{{"role": "user", "content": "hello"}}, not {kind_of(messages)}'
            )
        if not self._trained.is_chat:
            raise UserError("messages are not allowed: this model is not a chat model; it continues a prompt")
        if is_text:
            return [Turn(USER, messages)]
        return turns_of([dict(message) for message in messages], "messages")

    def _tokens(self, text: Text) -> list[int]:
        """Return the token ids of a text or a whole conversation, BOS first. Raises UserError if it is too long."""
        from microgpt.data.conversations import encode_turn

        if isinstance(text, str):
            tokens = self.tokenizer.encode(text)
        else:
            turns = self._turns(text)
            tokens = [token for turn in turns for token in encode_turn(turn, self.tokenizer, all_targets=True)]
        if len(tokens) >= self.config.block_size:
            raise UserError(
                f"the text has {len(tokens)} tokens without BOS, but the model reads at most {self.config.block_size} "
                "including BOS"
            )
        return [self.tokenizer.bos, *tokens]

    def _examples(self, text: Text) -> list[list[int]]:
        from microgpt.data.conversations import encode_conversation
        from microgpt.data.corpus import ExampleOptions, encode_document

        block_size = self.config.block_size
        if isinstance(text, str):
            return encode_document(text, self.tokenizer, ExampleOptions(block_size, "window"))
        example = encode_conversation(tuple(self._turns(text)), self.tokenizer, block_size)
        return [] if example is None else [example]

    def __repr__(self) -> str:
        from microgpt.api.run import shown

        spec, info = self.config, self.info
        return (
            f"<Model {spec.kind}: {spec.parameter_count():,} parameters, step {self.step}, {info.backend} "
            f"{info.dtype} on {info.device}, {shown(self.path)}>"
        )

    def _repr_html_(self) -> str:
        from microgpt.api.display import model_html

        return model_html(self)
