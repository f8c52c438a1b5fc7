"""From logits to text, with a decoder whose logits the tests choose."""

import math
import random
import string
from collections.abc import Callable, Sequence

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from microgpt.data.tokenizer import Tokenizer
from microgpt.errors import UserError
from microgpt.inference.generation import Continuation, Sample, generate, phrase_rate
from microgpt.inference.prompts import encode_prompt
from microgpt.inference.sampling import SamplingPolicy, add_style_bias, phrase_characters, probabilities

property_test = settings(deadline=None, database=None, max_examples=80)
LETTERS = Tokenizer.of([string.ascii_lowercase + " "])
ABC = Tokenizer.of(["abc"])
logit_lists = st.lists(st.floats(-30, 30), min_size=1, max_size=20)
temperatures = st.floats(0.01, 10)
Logits = Callable[[Sequence[int]], Sequence[float]]


class FakeDecoder:
    """Logits are a function of the tokens read so far; more than a block is an error, as in an engine."""

    def __init__(self, block_size: int, logits_of: Logits):
        self.block_size, self.logits_of, self.read = block_size, logits_of, []

    def feed(self, token: int) -> list[float]:
        self.read.append(token)
        assert len(self.read) <= self.block_size, "read beyond the block"
        return list(self.logits_of(self.read))


def certain(token: int, vocab_size: int = 4) -> list[float]:
    return [100.0 * (i == token) for i in range(vocab_size)]


def draw(
    logits_of: Logits,
    prompt: str = "",
    *,
    block_size: int = 8,
    policy: SamplingPolicy | None = None,
    seed: int = 0,
    tokenizer: Tokenizer = ABC,
) -> tuple[Sample, list[FakeDecoder]]:
    decoders: list[FakeDecoder] = []

    def new_decoder() -> FakeDecoder:
        decoders.append(FakeDecoder(block_size, logits_of))
        return decoders[-1]

    tokens = encode_prompt(prompt, tokenizer, block_size)
    text = Continuation(tokenizer, block_size, tokens, policy or SamplingPolicy(), random.Random(seed))
    return generate(text, new_decoder), decoders


# Probabilities


@property_test
@given(logit_lists)
def test_at_temperature_zero_the_likeliest_token_is_certain(logits):
    probs = probabilities(logits, SamplingPolicy(temperature=0))
    assert sum(probs) == 1
    assert probs.index(1.0) == logits.index(max(logits))  # the lower id of equals


@property_test
@given(logit_lists, temperatures)
def test_probabilities_are_the_softmax_of_logits_over_temperature(logits, temperature):
    exps = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    expected = [e / sum(exps) for e in exps]
    assert probabilities(logits, SamplingPolicy(temperature)) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@property_test
@given(logit_lists, temperatures, st.floats(1.1, 5))
def test_a_lower_temperature_raises_the_largest_probability(logits, temperature, factor):
    assume(max(logits) - min(logits) > 0.01)
    hot = max(probabilities(logits, SamplingPolicy(temperature * factor)))
    assert max(probabilities(logits, SamplingPolicy(temperature))) >= hot - 1e-12


@property_test
@given(logit_lists, temperatures, st.integers(1, 25))
def test_top_k_keeps_the_k_likeliest_and_sums_to_one(logits, temperature, top_k):
    probs = probabilities(logits, SamplingPolicy(temperature, top_k))
    kept = {i for i, p in enumerate(probs) if p > 0}
    likeliest = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:top_k]
    # A kept token's weight may underflow to 0 at a low temperature, and logits closer than rounding may tie.
    assert len(kept) <= top_k
    assert min(logits[i] for i in kept) >= min(logits[i] for i in likeliest) - 1e-9
    assert sum(probs) == pytest.approx(1)


@property_test
@given(logit_lists, st.integers(1, 25))
def test_top_k_at_temperature_one_keeps_exactly_the_likeliest(logits, top_k):
    probs = probabilities(logits, SamplingPolicy(1.0, top_k))
    likeliest = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:top_k]
    assert {i for i, p in enumerate(probs) if p > 0} == set(likeliest)


def test_ties_at_the_edge_of_top_k_go_to_the_lower_id():
    assert probabilities([1.0, 2.0, 2.0, 2.0], SamplingPolicy(1.0, 2)) == [0.0, 0.5, 0.5, 0.0]


def test_a_top_k_of_the_whole_vocabulary_changes_nothing():
    logits = [0.3, -1.0, 2.0]
    for top_k in (3, 4, 1000):
        assert probabilities(logits, SamplingPolicy(0.7, top_k)) == probabilities(logits, SamplingPolicy(0.7))


@pytest.mark.parametrize("temperature", [1e-2, 1e-300, 1e-308, 5e-324])
def test_a_temperature_near_zero_is_greedy(temperature):
    assert probabilities([1.0, 20.0, -3.0], SamplingPolicy(temperature)) == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("scale", [1e3, -1e3, 1e300])
def test_large_logits_do_not_overflow(scale):
    probs = probabilities([scale, scale / 2], SamplingPolicy(1.0))
    assert sum(probs) == pytest.approx(1)


# The prompt


def test_a_prompt_begins_with_bos():
    assert encode_prompt("abc", ABC, 16) == [3, 0, 1, 2]


def test_a_prompt_that_fills_the_block_is_accepted():
    assert len(encode_prompt("a" * 15, ABC, 16)) == 16


@pytest.mark.parametrize(("characters", "block_size", "message"), [
    (17, 16, "prompt token count 18 exceeds max prompt tokens 16"),
    (16, 16, "prompt token count 17 exceeds max prompt tokens 16"),
    (1024, 1024, "prompt token count 1025 exceeds max prompt tokens 1024"),
])  # fmt: skip
def test_a_prompt_that_is_too_long_is_refused_with_this_message(characters, block_size, message):
    with pytest.raises(UserError) as caught:
        encode_prompt("a" * characters, ABC, block_size)
    assert str(caught.value) == message


def test_unknown_characters_of_a_prompt_are_named():
    with pytest.raises(UserError, match=r"sample\.prompt='aXY' has characters that the model does not know: 'X' 'Y'"):
        encode_prompt("aXY", ABC, 16)


# Stopping


def test_a_sample_ends_when_the_model_ends_the_document():
    script = {1: 0, 2: 1, 3: ABC.bos}  # a, b, the end
    sample, decoders = draw(lambda read: certain(script[len(read)]))
    assert sample == Sample("ab", "end")
    assert decoders[0].read == [ABC.bos, 0, 1]


def test_an_immediate_end_is_an_empty_sample():
    assert draw(lambda read: certain(ABC.bos))[0] == Sample("", "end")


@pytest.mark.parametrize("limit", [1, 3, 8, 9, 20])
def test_a_sample_stops_after_max_new_tokens(limit):
    sample, _ = draw(lambda read: certain(0), policy=SamplingPolicy(max_new_tokens=limit))
    assert sample == Sample("a" * limit, "length")


def test_without_a_limit_a_sample_ends_when_the_block_is_full():
    sample, decoders = draw(lambda read: certain(0), block_size=8)
    assert sample == Sample("a" * 8, "block")
    assert decoders[0].read == [ABC.bos] + [0] * 7


def test_a_prompt_that_fills_the_block_leaves_room_for_one_token():
    assert draw(lambda read: certain(1), "a" * 7, block_size=8)[0] == Sample("b", "block")


def test_the_prompt_is_read_in_order_and_is_not_part_of_the_sample():
    sample, decoders = draw(lambda read: certain(ABC.bos if len(read) > 3 else 2), "ab")
    assert sample == Sample("c", "end")
    assert decoders[0].read == [ABC.bos, 0, 1, 2]


def test_a_sample_may_end_before_the_limit():
    assert draw(lambda read: certain(ABC.bos), policy=SamplingPolicy(max_new_tokens=5))[0].stop_reason == "end"


@pytest.mark.parametrize("block_size", [1, 2, 3, 7, 8])
def test_a_full_block_is_continued_from_its_later_half(block_size):
    # The next letter follows from the last one: a b c a b c ..., whatever else the decoder has lost.
    def successor(read: Sequence[int]) -> list[float]:
        return certain(0 if read[-1] == ABC.bos else (read[-1] + 1) % 3)

    sample, decoders = draw(successor, block_size=block_size, policy=SamplingPolicy(max_new_tokens=50))
    assert sample == Sample(("abc" * 17)[:50], "length")
    assert len(decoders) > 1
    text = [ABC.bos, *ABC.encode(sample.text)]
    half, end = max(block_size // 2, 1), block_size
    assert decoders[0].read == text[:block_size]
    for decoder in decoders[1:]:
        begin = end + 1 - half  # the half block that ends with the token that did not fit
        assert decoder.read == text[begin : begin + len(decoder.read)]
        end = begin + len(decoder.read)
        assert len(decoder.read) == block_size or decoder is decoders[-1]


# Random numbers


def uniform(read: Sequence[int]) -> list[float]:
    return [0.0, 0.0, 0.0, -100.0]


def test_equal_seeds_give_equal_samples_and_others_do_not():
    policy = SamplingPolicy(1.0, max_new_tokens=40)
    samples = [draw(uniform, policy=policy, seed=seed)[0].text for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]


def test_greedy_samples_do_not_depend_on_the_seed():
    def logits(read: Sequence[int]) -> list[float]:
        return [0.1, 0.2, 0.3 if len(read) % 2 else 0.0, -5.0]

    policy = SamplingPolicy(0, max_new_tokens=7)
    assert {draw(logits, policy=policy, seed=seed)[0].text for seed in range(5)} == {"cbcbcbc"}


def test_a_token_is_sampled_with_random_choices():
    logits = [0.5, 1.5, -0.5, -2.0]
    rng, policy = random.Random(3), SamplingPolicy(0.5, max_new_tokens=12)
    tokens = [rng.choices(range(4), weights=probabilities(logits, policy))[0] for _ in range(12)]
    assert ABC.bos not in tokens
    assert draw(lambda read: logits, policy=policy, seed=3)[0].text == ABC.decode(tokens)


def test_top_k_of_one_is_greedy():
    sample, _ = draw(lambda read: [0.1, 0.3, 0.2, 0.0], policy=SamplingPolicy(5.0, 1, 6))
    assert sample.text == "bbbbbb"


# The style's bias


@pytest.mark.parametrize(("text", "chars"), [
    ("", {"n", "o", "d"}),
    ("ann ", {"n", "o", "d"}),
    ("ann, ", {"n", "o", "d"}),
    ("ann-", {"n", "o", "d"}),
    ("n", {"e"}),
    ("ann ne", {"o", "u"}),
    ("neo", {"n"}),
    ("neu", {"r"}),
    ("neon", set()),
    ("neon ", {"n", "o", "d"}),
    ("ann", set()),
    ("bane", set()),
    ("1ne", set()),
    ("éne", set()),
    ("nx", set()),
    ("deep", {" "}),
    ("deep ", {"s", "n", "o"}),  # within "deep sea", which continues and does not begin again
    ("deep s", {"e"}),
    ("orb", {"i"}),
])  # fmt: skip
def test_phrases_begin_at_the_start_of_a_word(text, chars):
    assert phrase_characters(text, ("neon", "neural", "orbital", "deep sea")) == chars


@property_test
@given(st.text("abn e", max_size=12), st.text("abne", min_size=1, max_size=6))
def test_the_phrase_characters_complete_the_phrase(before, phrase):
    text = before + " "
    for char in phrase:
        assert char in phrase_characters(text, [phrase])
        text += char


@property_test
@given(st.text("ab", min_size=1, max_size=10), st.text("cd", min_size=1, max_size=5))
def test_a_word_with_another_beginning_does_not_continue_a_phrase(word, phrase):
    assert phrase_characters(word, [phrase]) == set()


def test_the_bias_raises_the_phrase_characters_only():
    logits = [0.0] * LETTERS.vocab_size
    policy = SamplingPolicy(phrases=("neon", "quantum"), bias=3.0)
    raised = add_style_bias(logits, [LETTERS.bos], LETTERS, policy)
    assert {LETTERS.chars[i] for i, logit in enumerate(raised) if logit == 3.0} == {"n", "q"}
    assert sum(raised) == 6.0
    assert logits == [0.0] * LETTERS.vocab_size


def test_phrases_with_the_same_beginning_raise_it_once():
    raised = add_style_bias([0.0] * 28, [LETTERS.bos], LETTERS, SamplingPolicy(phrases=("neon", "neural"), bias=3.0))
    assert max(raised) == 3.0


def test_a_phrase_of_unknown_characters_is_no_error():
    assert add_style_bias([0.0] * 4, [ABC.bos], ABC, SamplingPolicy(phrases=("Neon",), bias=3.0)) == [0.0] * 4


@property_test
@given(
    st.lists(st.floats(-10, 10), min_size=28, max_size=28),
    st.text("neonqu a", max_size=10),
    st.floats(0.1, 20),
    st.floats(0.5, 3),
)
def test_the_bias_raises_probabilities_and_makes_none_zero(logits, text, bias, temperature):
    policy = SamplingPolicy(temperature, phrases=("neon", "quantum"), bias=bias)
    tokens = [LETTERS.bos, *LETTERS.encode(text)]
    plain = probabilities(logits, policy)
    styled = probabilities(add_style_bias(logits, tokens, LETTERS, policy), policy)
    assert all(p > 0 for p in styled)
    chars = phrase_characters(text, policy.phrases)
    for char in chars:
        assert styled[LETTERS.ids[char]] >= plain[LETTERS.ids[char]] * (1 - 1e-9)
    others = [i for i in range(28) if i == LETTERS.bos or LETTERS.chars[i] not in chars]
    assert all(styled[i] <= plain[i] * (1 + 1e-9) for i in others)


def test_a_strong_bias_generates_the_phrase_once():
    def flat(read: Sequence[int]) -> list[float]:
        return [0.0] * 28

    policy = SamplingPolicy(1.0, max_new_tokens=60, phrases=("neon",), bias=30.0)
    assert draw(flat, block_size=64, policy=policy, tokenizer=LETTERS)[0].text.startswith("neon")
    plain = draw(flat, block_size=64, policy=policy.without_bias(), tokenizer=LETTERS)[0].text
    assert not plain.startswith("neon")


def test_the_prompt_may_begin_a_phrase():
    policy = SamplingPolicy(1.0, max_new_tokens=2, phrases=("neon",), bias=60.0)
    assert draw(lambda read: [0.0] * 28, "ne", policy=policy, tokenizer=LETTERS)[0].text == "on"


def test_the_bias_continues_after_the_block_is_full():
    policy = SamplingPolicy(1.0, max_new_tokens=7, phrases=("quantum",), bias=60.0)
    assert draw(lambda read: [0.0] * 28, block_size=4, policy=policy, tokenizer=LETTERS)[0].text == "quantum"


def test_without_bias_keeps_everything_else():
    policy = SamplingPolicy(0.7, 5, 9, ("neon",), 3.0)
    assert policy.without_bias() == SamplingPolicy(0.7, 5, 9)


def test_phrase_rate_is_the_share_of_texts_with_a_phrase():
    phrases = ("neon", "quantum")
    assert phrase_rate(["neon neon", "ann", "quantum neon", "neo"], phrases) == 0.5
    assert phrase_rate(["ann"], phrases) == 0.0
    assert phrase_rate([], phrases) is None
    assert phrase_rate(["neon"], ()) is None
