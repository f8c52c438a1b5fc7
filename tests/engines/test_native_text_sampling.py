"""Texts that the native engine samples itself are those of its decoder and inference/generation.py."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from microgpt.data.tokenizer import CHAT_SPECIAL, Tokenizer
from microgpt.engines import random_functions
from microgpt.engines.base import EngineState, TextSampler
from microgpt.engines.native.engine import NativeEngine
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import NonFiniteError
from microgpt.inference.generation import generate_all
from microgpt.inference.sampling import SamplingPolicy
from microgpt.model.spec import ModelSpec

TOKENIZER = Tokenizer("abcdefgh -")
SPEC = ModelSpec("gpt", TOKENIZER.vocab_size, n_embd=8, n_head=2, n_layer=1, block_size=12)
PROMPTS = [[TOKENIZER.bos, *TOKENIZER.encode(text)] for text in ("", "abc", "ab-a", "", "abcdefgh ab")] * 6


def engine_of(tokenizer: Tokenizer = TOKENIZER, scale: float = 0.3, replicas: int = 3) -> NativeEngine:
    rng = np.random.default_rng(1)
    spec = replace(SPEC, vocab_size=tokenizer.vocab_size)
    arrays = {name: scale * rng.normal(size=(replicas, *shape)) for name, shape in spec.shapes().items()}
    return NativeEngine(EngineOptions("native"), spec, OptimizerSpec("sgd"), None, EngineState(arrays))


class WithoutSampler:
    """The engine's decoders alone."""

    def __init__(self, engine: NativeEngine):
        self.info, self.decoder = engine.info, engine.decoder


@pytest.mark.parametrize(
    "policy",
    [
        SamplingPolicy(1.0),
        SamplingPolicy(0.3, top_k=3),
        SamplingPolicy(0.0),
        SamplingPolicy(1.5, max_new_tokens=1),
        SamplingPolicy(1.5, max_new_tokens=40),
        SamplingPolicy(1.0, phrases=("ab", "abba", "cab-d", "éa", "aé"), bias=4.0),
        SamplingPolicy(0.7, top_k=5, phrases=("fad",), bias=-2.5),
    ],
    ids=str,
)
def test_texts_and_generator_are_those_of_a_decoder(policy: SamplingPolicy) -> None:
    assert isinstance(engine_of(), TextSampler)
    different: set[str] = set()
    for tokenizer, prompts in ((TOKENIZER, PROMPTS), (Tokenizer("abcdefgh -", CHAT_SPECIAL), [[13, 10, 0, 11]] * 3)):
        engine = engine_of(tokenizer)
        for replica in (0, 2):
            found = []
            for kind in (engine, WithoutSampler(engine)):
                rng = random.Random(replica)
                texts = list(generate_all(kind, replica, tokenizer, SPEC.block_size, prompts, policy, rng))  # pyright: ignore[reportArgumentType]
                found.append((texts, rng.getstate()))
            assert found[0] == found[1]
            different |= {text.text for text in found[0][0]}
    assert len(different) > 1


def test_non_finite_logits_are_an_error_and_a_stop_ends_sampling() -> None:
    infinite = engine_of(scale=math.inf)
    with pytest.raises(NonFiniteError):
        list(generate_all(infinite, 0, TOKENIZER, 12, PROMPTS, SamplingPolicy(), random.Random(1)))
    stopped = generate_all(engine_of(), 0, TOKENIZER, 12, PROMPTS, SamplingPolicy(), random.Random(1), lambda: True)
    assert list(stopped) == []


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 5000])
def test_shuffle_and_normals_are_those_of_python(count: int) -> None:
    rngs = compiled, python = random.Random(count), random.Random(count)
    shuffles, normals = zip(*map(random_functions, (EngineOptions("native"), EngineOptions("python"))), strict=True)
    orders = [shuffle(count, rng) for shuffle, rng in zip(shuffles, rngs, strict=True)]
    assert orders[0].dtype == np.int32
    assert orders[0].tolist() == orders[1].tolist()
    for _ in range(2):  # an odd count leaves a number for the next call
        expected = [python.gauss(0, 1) for _ in range(count)]
        assert normals[0](compiled, count) == expected
        assert compiled.getstate() == python.getstate()
    assert normals[1](compiled, count) == [python.gauss(0, 1) for _ in range(count)]
    assert compiled.getstate() == python.getstate()
