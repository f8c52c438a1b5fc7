"""Bulk sampling and batch decoding of the native engine: distribution, determination by the seed, limits."""

import math
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import with_options
from support.program import Program, make_program, mostly_slow

from microgpt.data.tokenizer import Tokenizer
from microgpt.engines.base import BulkRequest, BulkSampler, EngineState
from microgpt.engines.native import bulk_sampling
from microgpt.engines.native.engine import NativeEngine
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.engines.scalar.engine import ScalarEngine
from microgpt.errors import NonFiniteError, UserError
from microgpt.inference.generation import Continuation, Sample, generate, generate_many
from microgpt.inference.sampling import SamplingPolicy, probabilities
from microgpt.model.spec import ModelSpec

Text = tuple[int, ...]
SGD = OptimizerSpec("sgd")
GPT = ModelSpec("gpt", vocab_size=4, n_embd=6, n_head=2, n_layer=2, block_size=4)
BIGRAM = ModelSpec("bigram", vocab_size=5, n_embd=5, n_head=1, n_layer=0, block_size=3)
LONG = replace(GPT, vocab_size=6, block_size=20, n_layer=1)  # too many texts to enumerate
OPTIONAL = with_options("everything", n_layer=2)
DRAWN = 100_000
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def random_state(spec: ModelSpec, replicas: int = 1) -> EngineState:
    rng = np.random.default_rng(5)
    return EngineState({name: rng.normal(0, 0.4, (replicas, *shape)) for name, shape in spec.shapes().items()})


@cache
def native(spec: ModelSpec = GPT, dtype: str = "float32", replicas: int = 1) -> NativeEngine:
    options = EngineOptions("native", dtype=dtype, threads=1)
    return NativeEngine(options, spec, SGD, None, random_state(spec, replicas), lambda said: None)


def texts(
    engine: NativeEngine,
    count: int,
    *,
    prompt: Text = (),
    room: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 7,
    first: int = 0,
    slots: int = 64,
    replica: int = 0,
) -> list[list[int]]:
    start = [engine.spec.vocab_size - 1, *prompt]
    room = engine.spec.block_size - len(prompt) if room is None else room
    return engine.draw(replica, BulkRequest(start, count, room, temperature, top_k, seed, first), slots).texts


# The distribution


def exact(spec: ModelSpec, policy: SamplingPolicy, prompt: Text, replica: int = 0) -> dict[Text, float]:
    """Return every text that can follow a prompt within the block, with its probability by the scalar engine."""
    engine = ScalarEngine(EngineOptions("python"), spec, SGD, None, random_state(spec, replica + 1))
    bos = spec.vocab_size - 1
    found: dict[Text, float] = {}

    def follow(text: Text, probability: float) -> None:
        if len(prompt) + len(text) == spec.block_size:
            found[text] = probability
            return
        decoder = engine.decoder(replica)
        logits = [decoder.feed(token) for token in (bos, *prompt, *text)][-1]
        for token, share in enumerate(probabilities(logits, policy)):
            if share > 0 and token == bos:
                found[text] = probability * share
            elif share > 0:
                follow((*text, token), probability * share)

    follow((), 1.0)
    assert math.isclose(sum(found.values()), 1.0)
    return found


def deviation(drawn: list[list[int]], expected: dict[Text, float]) -> float:
    """Return Pearson's chi-square as a standard normal deviate, by the formula of Wilson and Hilferty (1931).

    (chi-square / k)^(1/3) is nearly normal with mean 1 - 2/(9k) and variance 2/(9k) for k degrees of freedom. Texts
    with fewer than 5 expected draws are pooled. A text with probability 0 gives infinity.
    """
    counts = dict.fromkeys(expected, 0)
    for text in map(tuple, drawn):
        if text not in counts:
            return math.inf
        counts[text] += 1
    cells = [(count, len(drawn) * expected[text]) for text, count in counts.items()]
    rare = [cell for cell in cells if cell[1] < 5]
    cells = [cell for cell in cells if cell[1] >= 5]
    pooled = sum(count for count, _ in rare), sum(mean for _, mean in rare)
    if pooled[1] >= 5:
        cells.append(pooled)
    square, freedom = sum((count - mean) ** 2 / mean for count, mean in cells), len(cells) - 1
    assert freedom > 0, "one text is nearly certain: nothing to compare"
    spread = 2 / (9 * freedom)
    return ((square / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


@pytest.mark.slow
@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param((), id="no prompt", marks=pytest.mark.slow),
        pytest.param((1,), id="a prompt"),
        pytest.param((0, 2, 1), id="room for one token"),
    ],
)
@mostly_slow(
    2,
    "policy",
    [SamplingPolicy(0.5), SamplingPolicy(2.0, 3), SamplingPolicy(1.0), SamplingPolicy(2.0), SamplingPolicy(1.0, 2)],
    ids=["t=0.5", "t=2 top_k=3", "t=1", "t=2", "t=1 top_k=2"],
)
@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_texts_have_the_probabilities_of_the_scalar_engine(dtype: str, policy: SamplingPolicy, prompt: Text) -> None:
    expected = exact(GPT, policy, prompt)
    drawn = texts(native(GPT, dtype), DRAWN, prompt=prompt, temperature=policy.temperature, top_k=policy.top_k)
    # Two-sided: a fit better than chance would mean that draws are not independent.
    assert abs(deviation(drawn, expected)) < 3.5


@pytest.mark.parametrize("top_k", [None, 2])
def test_texts_of_a_bigram_have_the_probabilities_of_the_scalar_engine(top_k: int | None) -> None:
    expected = exact(BIGRAM, SamplingPolicy(1.0, top_k), ())
    assert len(expected) == (1 + 4 + 16 + 64 if top_k is None else len(expected))
    assert abs(deviation(texts(native(BIGRAM), DRAWN, top_k=top_k), expected)) < 3.5


@mostly_slow(1, "name", ["everything", "gpt2", "llama", "nanochat"])
def test_texts_of_a_model_with_options_have_the_probabilities_of_the_scalar_engine(name: str) -> None:
    spec = with_options(name, vocab_size=GPT.vocab_size, block_size=GPT.block_size)
    drawn = texts(native(spec), DRAWN, prompt=(1,))
    assert abs(deviation(drawn, exact(spec, SamplingPolicy(1.0), (1,)))) < 3.5


@pytest.mark.slow
@pytest.mark.parametrize("vocab_size", [2, 15, 16, 17, 40])
def test_all_tokens_and_no_padding_are_sampled_at_any_vocabulary_size(vocab_size: int) -> None:
    """Rows of logits are padded to whole vectors of 16 lanes."""
    spec = replace(GPT, vocab_size=vocab_size, block_size=1)
    for top_k in (None, 1 + vocab_size // 2):
        expected = exact(spec, SamplingPolicy(1.0, top_k), ())
        assert abs(deviation(texts(native(spec), DRAWN, top_k=top_k), expected)) < 3.5


@pytest.mark.slow
def test_each_replica_samples_from_its_own_weights() -> None:
    engine = native(GPT, "float32", replicas=2)
    first, second = exact(GPT, SamplingPolicy(1.0), ()), exact(GPT, SamplingPolicy(1.0), (), replica=1)
    assert abs(deviation(texts(engine, DRAWN, replica=1), second)) < 3.5
    assert deviation(texts(engine, DRAWN, replica=1), first) > 10


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [SamplingPolicy(1.05), SamplingPolicy(1.0, 3)], ids=["t=1.05", "top_k=3"])
def test_chi_square_detects_another_policy(wrong: SamplingPolicy) -> None:
    assert deviation(texts(native(), DRAWN), exact(GPT, wrong, ())) > 10


@pytest.mark.slow
def test_neighbouring_texts_and_seeds_are_independent() -> None:
    """The joint probability of two texts' first tokens is the product of their probabilities."""
    beginning: dict[Text, float] = {}
    for text, probability in exact(GPT, SamplingPolicy(1.0), ()).items():
        beginning[text[:1]] = beginning.get(text[:1], 0.0) + probability
    pairs = {(*a, -1, *b): p * q for a, p in beginning.items() for b, q in beginning.items()}

    one, other = texts(native(), DRAWN, room=1), texts(native(), DRAWN, room=1, seed=8)
    neighbours = [[*a, -1, *b] for a, b in zip(one[0::2], one[1::2], strict=True)]
    seeds = [[*a, -1, *b] for a, b in zip(one, other, strict=True)]
    for found in (neighbours, seeds):
        assert abs(deviation(found, pairs)) < 3.5


# Extremes


def test_equal_logits_favour_the_lower_token_in_greedy_and_top_k_sampling() -> None:
    spec = replace(GPT, block_size=6)
    zeros = EngineState({name: np.zeros((1, *shape)) for name, shape in spec.shapes().items()})
    engine = NativeEngine(EngineOptions("native", threads=1), spec, SGD, None, zeros, lambda said: None)
    assert texts(engine, 3, temperature=0) == [[0] * 6] * 3
    two = [token for text in texts(engine, 1000, top_k=2) for token in text]
    assert set(two) == {0, 1}
    assert abs(two.count(0) - 3000) < 4 * math.sqrt(6000 / 4)


@each_dtype
@pytest.mark.parametrize("prompt", [(), (2,), (0, 0, 1, 4, 2, 3)], ids=len)
def test_greedy_texts_equal_those_of_generate(dtype: str, prompt: Text) -> None:
    engine, tokenizer = native(LONG, dtype), Tokenizer.of(["abcde"])
    asked = [tokenizer.bos, *prompt]
    text = Continuation(tokenizer, LONG.block_size, asked, SamplingPolicy(0), random.Random(0))
    sample = generate(text, lambda: engine.decoder(0))
    assert [tokenizer.decode(text) for text in texts(engine, 3, prompt=prompt, temperature=0)] == [sample.text] * 3


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("temperature", [1e-3, 1e-9, 1e-20, 1e-29, 1e-31, 1e-300, 5e-324])
def test_a_temperature_close_to_zero_is_greedy(temperature: float, top_k: int | None) -> None:
    greedy = texts(native(LONG), 2, temperature=0)
    assert texts(native(LONG), 2, temperature=temperature, top_k=top_k) == greedy


def test_top_k_of_one_is_greedy_at_any_temperature() -> None:
    assert texts(native(LONG), 2, temperature=50.0, top_k=1) == texts(native(LONG), 2, temperature=0)


def test_a_top_k_above_the_vocabulary_size_has_no_effect() -> None:
    assert texts(native(), 50, top_k=4) == texts(native(), 50, top_k=1000) == texts(native(), 50)


def splitmix_uniform(seed: int, text: int) -> float:
    """Return the first random number of a text."""
    mask = (1 << 64) - 1

    def scramble(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    state = scramble((scramble(seed) + text * golden) & mask)
    return (scramble((state + golden) & mask) >> 11) * 2.0**-53


LAST = 11_380_135  # of seed 1: the first text whose first random number rounds to 1 in float32


def test_a_random_number_close_to_one_does_not_choose_a_token_outside_top_k() -> None:
    assert 1 > splitmix_uniform(seed=1, text=LAST) > 1 - 2**-25
    allowed = {tuple(text) for text in texts(native(), 2000, room=1, top_k=2, seed=1)}
    assert () not in allowed, "the end is not among the two most likely tokens"
    assert tuple(texts(native(), 1, room=1, top_k=2, seed=1, first=LAST)[0]) in allowed


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_non_finite_logits_raise(wrong: float) -> None:
    state = random_state(GPT)
    state.parameters["lm_head"][:] = wrong
    engine = NativeEngine(EngineOptions("native", threads=1), GPT, SGD, None, state, lambda said: None)
    with pytest.raises(NonFiniteError, match="logits contain NaN or infinity"):
        texts(engine, 3)


# The series


@pytest.fixture(scope="module")
def series() -> list[list[int]]:
    drawn = texts(native(LONG), 300)
    assert len({len(text) for text in drawn}) > 5, "texts end at different times"
    return drawn


@pytest.mark.parametrize("slots", [1, 2, 3, 63, 64, 65, 300, 5000])
def test_texts_do_not_depend_on_the_number_in_progress(series: list[list[int]], slots: int) -> None:
    assert texts(native(LONG), 300, slots=slots) == series


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 299), (1, 1), (37, 100), (299, 1), (0, 0), (150, 0)])
def test_a_slice_of_the_series_can_be_drawn_alone(series: list[list[int]], first: int, count: int) -> None:
    assert texts(native(LONG), count, first=first) == series[first : first + count]


def test_a_slice_with_prompt_and_top_k_equals_that_of_the_series() -> None:
    engine, prompt = native(LONG), (2, 0, 1)
    whole = texts(engine, 100, prompt=prompt, top_k=3, temperature=0.7)
    assert texts(engine, 20, prompt=prompt, top_k=3, temperature=0.7, first=30, slots=3) == whole[30:50]


def test_texts_with_less_room_are_prefixes(series: list[list[int]]) -> None:
    for room in (1, 2, 7):
        assert texts(native(LONG), 300, room=room) == [text[:room] for text in series]


def test_another_seed_gives_another_series(series: list[list[int]]) -> None:
    assert texts(native(LONG), 300, seed=7) == series
    other = texts(native(LONG), 300, seed=8)
    equal = sum(a == b for a, b in zip(series, other, strict=True))
    assert equal < 30, "one in ten: short texts may be equal by chance"
    assert other[:-1] != series[1:]
    assert other[1:] != series[:-1]


@pytest.mark.parametrize("seed", [0, 1, 2**62 - 1])
def test_smallest_and_largest_seeds_sample_correctly(seed: int) -> None:
    drawn = texts(native(), 2000, seed=seed)
    assert deviation(drawn, exact(GPT, SamplingPolicy(1.0), ())) < 3.5


def test_draws_count_tokens_with_ends_and_texts_that_fill_their_room() -> None:
    draws = native(LONG).draw(0, BulkRequest([5], 300, 6, 1.0, None, 7))
    assert isinstance(native(LONG), BulkSampler)
    assert draws.drawn.shape == (300, 6)
    assert set(map(len, draws.texts)) == set(range(7))
    ended = draws.lengths < 6
    assert draws.tokens == draws.lengths.sum() + ended.sum()
    assert all(0 <= token < 5 for text in draws.texts for token in text), "the end is not part of a text"


def test_a_prompt_of_the_block_size_leaves_room_for_one_token() -> None:
    drawn = texts(native(LONG), 200, prompt=(1,) * 19)
    assert {len(text) for text in drawn} == {0, 1}


# Through inference/generation.py


def many(policy: SamplingPolicy, prompt: str = "", count: int = 40, seed: int = 3) -> list[Sample]:
    tokenizer = Tokenizer.of(["abcde"])
    asked = [tokenizer.bos, *tokenizer.encode(prompt)]
    return list(generate_many(native(LONG), tokenizer, LONG.block_size, asked, policy, count, random.Random(seed)))


def test_stop_reasons_equal_those_of_generate() -> None:
    ended, full = (re.compile(rf"[a-e]{{{length}}}") for length in ("0,19", "20"))
    for sample in many(SamplingPolicy(1.0)):
        assert (full if sample.stop_reason == "block" else ended).fullmatch(sample.text)
        assert sample.stop_reason in ("end", "block")
    short = many(SamplingPolicy(1.0, max_new_tokens=3))
    assert {sample.stop_reason for sample in short} == {"end", "length"}
    assert all((len(sample.text) == 3) == (sample.stop_reason == "length") for sample in short)


def test_pieces_held_in_memory_make_one_series(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = many(SamplingPolicy(1.0))
    monkeypatch.setattr("microgpt.inference.generation.BULK_SIZE", 7)
    assert many(SamplingPolicy(1.0)) == whole
    assert many(SamplingPolicy(1.0), count=5) == whole[:5]
    assert many(SamplingPolicy(1.0), count=0) == []


def test_max_new_tokens_is_at_most_the_room_of_the_block() -> None:
    assert len(many(SamplingPolicy(1.0, max_new_tokens=17), "abc")) == 40
    with pytest.raises(UserError, match=r"max_new_tokens=18 is not allowed: .* which has room for 17$"):
        many(SamplingPolicy(1.0, max_new_tokens=18), "abc")


def test_phrases_are_refused_where_they_would_be_favoured() -> None:
    with pytest.raises(UserError, match=r"does not support a style's phrases; add style\.bias=0"):
        many(SamplingPolicy(1.0, phrases=("ab",), bias=1.0))
    assert many(SamplingPolicy(1.0, phrases=("ab",), bias=0.0)) == many(SamplingPolicy(1.0))


def test_engine_without_a_sampler_is_refused_by_name() -> None:
    engine = ScalarEngine(EngineOptions("python"), LONG, SGD, None, random_state(LONG))
    with pytest.raises(UserError, match="backend=python has no bulk sampler"):
        generate_many(engine, Tokenizer.of(["abcde"]), 20, [5], SamplingPolicy(1.0), 1, random.Random(0))


# As a user runs it


BULK = ("task=sample", "checkpoint=latest", "sample.bulk=true", "mode=tensor", "backend=native")
PLAIN = (*BULK, "style.bias=0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A folder with a checkpoint of the futuristic style, which has phrases."""
    for program in make_program(tmp_path_factory.mktemp("bulk")):
        Path(program.folder / "input.txt").write_text("".join(f"{a}{b}a\n" for a in "abcdefgh" for b in "abcdefgh"))
        program("data=text", "data.path=input.txt", "train.steps=20", "sample.num_samples=0",
                "mode=tensor", "backend=native")  # fmt: skip
        yield program


def sample_lines(stdout: str) -> list[str]:
    return re.findall(r"^sample +\d+: .*$", stdout, re.MULTILINE)


@pytest.mark.slow
def test_bulk_prints_the_requested_number_of_texts_and_repeats_them(trained: Program) -> None:
    before = trained.files()
    first, second = (trained(*PLAIN, "sample.num_samples=3000", "sample.prompt=ab").stdout for _ in range(2))
    lines = sample_lines(first)
    assert [int(re.findall(r"\d+", line)[0]) for line in lines] == list(range(1, 3001))
    assert all(re.fullmatch(r"sample +\d+: ab[^[]*(  \[stopped: block\])?", line) for line in lines)
    assert len(set(lines)) > 1000
    assert first == second
    assert "backend=native device=cpu using_gpu=false dtype=float32" in first.splitlines()
    assert trained.files() == before, "sampling writes no file"


@pytest.mark.slow
def test_bulk_texts_are_determined_by_seed_and_number(trained: Program) -> None:
    one, more, other = (
        sample_lines(trained(*PLAIN, f"sample.num_samples={count}", f"sample.seed={seed}").stdout)
        for count, seed in ((20, 1), (40, 1), (20, 2))
    )
    assert more[:20] == one
    assert other != one


@pytest.mark.slow
@mostly_slow(1,
    ("arguments", "sentence"),
    [
        (BULK, "sample.bulk=true is not allowed: bulk sampling does not support a style's phrases; add style.bias=0"),
        ((*PLAIN, "sample.max_new_tokens=17"), "sample.max_new_tokens=17 is not allowed: with sample.bulk=true, a "
                                               "sample cannot exceed the block, which has room for 16"),
        ((*PLAIN, "backend=torch"), "sample.bulk=true is not allowed: it requires task=sample mode=tensor "
                                    "backend=native"),
        ((*PLAIN[:3], "mode=scalar"), "sample.bulk=true is not allowed: it requires task=sample mode=tensor "
                                      "backend=native"),
    ],
    ids=["phrases", "beyond the block", "torch", "scalar"],
)  # fmt: skip
def test_what_bulk_does_not_support_is_an_error(trained: Program, arguments: tuple[str, ...], sentence: str) -> None:
    before = trained.files()
    if "backend=torch" in arguments:
        arguments = tuple(a for a in arguments if a != "backend=native")
    done = trained(*arguments, expect=2)
    assert done.stderr.lower() == f"error: {sentence}\n".lower()
    assert not sample_lines(done.stdout)
    assert trained.files() == before


# Batch decoding


@given(st.data(), st.sampled_from([GPT, BIGRAM, LONG, OPTIONAL]), st.sampled_from(["float32", "float64"]))
@settings(max_examples=40, deadline=None)
def test_rows_of_a_batch_decoder_equal_single_decoders(data: st.DataObject, spec: ModelSpec, dtype: str) -> None:
    engine = native(spec, dtype)
    together = engine.batch_decoder(0, slots=5)
    token = st.integers(0, spec.vocab_size - 1)
    read: list[list[int]] = [[] for _ in range(5)]  # the tokens in each slot
    for _ in range(data.draw(st.integers(1, 12))):
        rows: list[tuple[int, int, int]] = []
        for slot in data.draw(st.permutations(range(5)))[: data.draw(st.integers(1, 5))]:
            new = data.draw(st.lists(token, min_size=1, max_size=3))
            if len(read[slot]) + len(new) > spec.block_size:
                read[slot] = []  # a new text
            rows += [(slot, len(read[slot]) + i, each) for i, each in enumerate(new)]
            read[slot] += new
        logits = together.feed(*zip(*rows, strict=True))
        for (slot, position, _), found in zip(rows, logits.tolist(), strict=True):
            alone = engine.decoder(0)
            assert [alone.feed(each) for each in read[slot][: position + 1]][-1] == found


def test_a_batch_decoder_raises_for_too_many_rows_and_positions() -> None:
    decoder = native(GPT).batch_decoder(0, slots=2)
    with pytest.raises(IndexError, match="beyond block_size=4"):
        decoder.feed([0], [GPT.block_size], [0])
    with pytest.raises(IndexError, match="at most"):
        decoder.feed([0] * (decoder.rows + 1), [0] * (decoder.rows + 1), [0] * (decoder.rows + 1))


@pytest.mark.parametrize("spec", [GPT, OPTIONAL], ids=["gpt", "everything"])
def test_a_table_of_the_first_layer_changes_no_text(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with_table = [texts(native(spec), 300, slots=slots) for slots in (1, 64)]
    monkeypatch.setattr(bulk_sampling, "LARGEST_TABLE", 0)
    assert [texts(native(spec), 300, slots=slots) for slots in (1, 64)] == with_table
    assert with_table[0] == with_table[1]
