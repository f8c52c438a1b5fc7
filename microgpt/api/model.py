"""A trained model: generation, logits, losses, attention weights and parameters."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def load(checkpoint: str | Path = "latest", *overrides: Overrides) -> Model:
    """Return the model in a run's folder, a checkpoint's folder or an export; "latest" is the newest run's checkpoint.

    Overrides choose the engine ("mode=scalar", "backend=torch", "backend.device=cuda"), the outputs_dir for "latest",
    or the style's bias for generation ("style.bias=0"). mode=tensor is the default. Raises UserError if the checkpoint
    cannot be read or the engine is not available on this machine.
    """
    from microgpt.api.program import compose
    from microgpt.inference.loading import load_model

    given = overrides_of(overrides)
    mode = [] if "mode" in keys_of(given) else ["mode=tensor"]
    return Model(load_model(*compose(["task=sample", *mode, f"checkpoint={written(str(checkpoint))}", *given])))


class Model:
    """A trained model, as returned by `microgpt.load` and `Run.model`.

    T is the number of tokens of a text: the token at the start of every text (BOS) and its characters. V is the size of
    the vocabulary.
    """

    def __init__(self, trained: TrainedModel):
        self._trained = trained

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
        n: int = 1,
        *,
        temperature: float = SampleConfig.temperature,
        top_k: int | None = SampleConfig.top_k,
        max_new_tokens: int | None = SampleConfig.max_new_tokens,
        seed: int | None = SampleConfig.seed,
    ) -> list[str]:
        """Return n samples that start with the prompt, the same as `task=sample` prints.

        A chat model answers the prompt, which is the user's turn. With seed=None, sampling continues with the random
        number generator that drew the initial weights, so that equal calls return equal samples. Raises UserError for
        an invalid value, unknown characters, or a prompt that is too long.
        """
        from microgpt.inference.loading import sample_generator
        from microgpt.inference.prompts import sample_prompts

        asked = SampleConfig(prompt, temperature, top_k, n, max_new_tokens=max_new_tokens, seed=seed)
        policy = self._policy(asked)
        (one,) = sample_prompts(asked, self.tokenizer, self.config.block_size, questions=())
        rng = sample_generator(self._trained.checkpoint, seed)
        return [one.text + made.text for made in self._continue([one.tokens] * n, policy, rng)]

    def chat(
        self,
        messages: Text,
        *,
        temperature: float = SampleConfig.temperature,
        top_k: int | None = SampleConfig.top_k,
        max_new_tokens: int | None = SampleConfig.max_new_tokens,
        seed: int | None = SampleConfig.seed,
    ) -> str:
        """Return a chat model's answer to a conversation, or to a text, which is taken as the user's turn.

        The oldest turns are dropped if the conversation does not fit the block. Raises UserError for any other model.
        """
        from microgpt.data.conversations import encode_prompt_turns

        policy = self._policy(SampleConfig("", temperature, top_k, max_new_tokens=max_new_tokens, seed=seed))
        prompt, _ = encode_prompt_turns(self._turns(messages), self.tokenizer, self.config.block_size)
        (made,) = self._continue([prompt], policy, random.Random(Config.seed if seed is None else seed))
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

    def loss(self, texts: str | Sequence[Text]) -> float:
        """Return the mean loss in nats per target token. The targets are the characters and the end of each text.

        A text that is longer than the block is evaluated in windows. In a conversation, only the answers are targets.
        """
        given: Sequence[Text] = [texts] if isinstance(texts, str) else texts
        examples = [example for text in given for example in self._examples(text)]
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

        if not self._trained.is_chat:
            raise UserError("messages are not allowed: this model is not a chat model; it continues a prompt")
        if isinstance(messages, str):
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
