"""From a text to examples: the split, the cut, the formats."""

import os
import string
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.data.corpus import Corpus, ExampleOptions, build_corpus, encode_document, encode_part, is_long, split
from microgpt.data.sources import Source, read_source
from microgpt.data.tokenizer import Tokenizer
from microgpt.errors import UserError

property_test = settings(deadline=None, database=None, max_examples=80)
documents_with_copies = st.lists(st.text("abcd", min_size=1, max_size=3), max_size=60)
fractions = st.floats(0, 0.99)
texts = st.text("abc", max_size=40)


def source(text: str) -> Source:
    return Source("text", "data.path=it.txt", "0" * 64, text)


def corpus_of(
    text: str,
    *,
    text_format: str = "lines",
    long_documents: str = "truncate",
    val_fraction: float = 0.0,
    split_seed: int = 0,
    block_size: int = 16,
    style_documents: tuple[str, ...] = (),
    style_long_documents: str = "window",
) -> Corpus:
    return build_corpus(
        source(text),
        text_format=text_format,
        long_documents=long_documents,
        val_fraction=val_fraction,
        split_seed=split_seed,
        block_size=block_size,
        style_documents=style_documents,
        style_long_documents=style_long_documents,
    )


def decoded(corpus: Corpus, examples: list[list[int]]) -> list[str]:
    return [corpus.tokenizer.decode(example) for example in examples]


# The split


@property_test
@given(documents_with_copies, fractions, st.integers(0, 5))
def test_no_distinct_document_is_on_both_sides(documents, fraction, seed):
    train, val = split(documents, fraction, seed)
    assert not set(train) & set(val)


@property_test
@given(documents_with_copies, fractions, st.integers(0, 5))
def test_the_split_keeps_every_copy_of_every_document(documents, fraction, seed):
    train, val = split(documents, fraction, seed)
    assert Counter(train) + Counter(val) == Counter(documents)


@property_test
@given(documents_with_copies, fractions)
def test_the_nearest_whole_number_of_distinct_documents_is_held_out(documents, fraction):
    _, val = split(documents, fraction, 0)
    assert abs(len(set(val)) - fraction * len(set(documents))) <= 0.5


@property_test
@given(documents_with_copies, fractions, st.integers(0, 5))
def test_the_training_side_keeps_the_order_of_the_source(documents, fraction, seed):
    train, val = split(documents, fraction, seed)
    assert train == [document for document in documents if document not in set(val)]


@property_test
@given(documents_with_copies, st.integers(0, 5))
def test_a_val_fraction_of_zero_holds_nothing_out(documents, seed):
    assert split(documents, 0, seed) == (documents, [])


@property_test
@given(documents_with_copies, fractions, st.integers(0, 5))
def test_the_split_is_a_function_of_the_seed(documents, fraction, seed):
    assert split(documents, fraction, seed) == split(list(documents), fraction, seed)


def test_another_seed_holds_out_other_documents():
    documents = [f"d{i}" for i in range(100)]
    held_out = [frozenset(split(documents, 0.1, seed)[1]) for seed in range(5)]
    assert len(set(held_out)) == 5


def test_the_first_validation_documents_are_no_block_of_the_source():
    documents = [f"{i:03d}" for i in range(200)]
    val = split(documents, 0.2, 0)[1]
    assert val != sorted(val)
    assert len(val) == 40


def test_copies_do_not_change_which_documents_are_held_out():
    documents = [f"d{i}" for i in range(50)]
    with_copies = documents + documents[:20]
    assert set(split(documents, 0.2, 3)[1]) == set(split(with_copies, 0.2, 3)[1])


@pytest.mark.parametrize("text", ["one\n", "one\none\none\n", "a\nb\n"])
def test_too_little_data_to_split_is_an_error_that_says_so(text):
    with pytest.raises(UserError, match=r"data\.path=it\.txt is too small to split: \d distinct document") as caught:
        corpus_of(text, val_fraction=0.1)
    assert "data.val_fraction=0.1" in str(caught.value)


def test_too_few_documents_to_leave_any_for_training_is_an_error():
    with pytest.raises(UserError, match="too small to split: 2 distinct documents"):
        corpus_of("a\nb\n", val_fraction=0.9)


def test_one_document_is_enough_where_nothing_is_held_out():
    corpus = corpus_of("one\n", val_fraction=0)
    assert (corpus.train.documents, corpus.val.documents) == (1, 0)


def test_the_styles_documents_are_split_like_the_corpus():
    style = tuple(f"style {i}" for i in range(20))
    corpus = corpus_of(
        "".join(f"name {i}\n" for i in range(50)), val_fraction=0.1, split_seed=7, style_documents=style, block_size=32
    )
    train, val = split(style, 0.1, 7)
    assert decoded(corpus, corpus.style_train.examples) == train
    assert decoded(corpus, corpus.style_val.examples) == val
    assert len(val) == 2


def test_no_style_document_is_in_the_corpus_proper():
    corpus = corpus_of("ab\nba\n", style_documents=("neon",))
    assert corpus.documents == 2
    assert decoded(corpus, corpus.train.examples) == ["ab", "ba"]
    assert corpus.tokenizer.chars == sorted("abneo")


def test_a_document_that_the_style_repeats_from_the_corpus_is_not_on_both_sides():
    names = [f"name {i}" for i in range(50)]
    corpus = corpus_of("\n".join(names), val_fraction=0.2, style_documents=tuple(names[:20]), block_size=32)
    train = {*decoded(corpus, corpus.train.examples), *decoded(corpus, corpus.style_train.examples)}
    val = {*decoded(corpus, corpus.val.examples), *decoded(corpus, corpus.style_val.examples)}
    assert not train & val


# The cut


@property_test
@given(texts, st.integers(1, 8), st.booleans())
def test_windows_make_every_token_a_target_exactly_once(text, block_size, closed):
    tokenizer = Tokenizer.of(["abc"])
    examples = encode_document(text or "a", tokenizer, ExampleOptions(block_size, "window", closed))
    targets = [token for example in examples for token in example[1:]]
    assert targets == tokenizer.encode(text or "a") + [tokenizer.bos] * closed
    assert all(1 <= len(example) - 1 <= block_size for example in examples)
    assert examples[0][0] == tokenizer.bos
    for before, after in pairwise(examples):
        assert after[0] == before[-1]


@property_test
@given(texts, st.integers(1, 8))
def test_truncation_keeps_the_head_and_nothing_else(text, block_size):
    tokenizer = Tokenizer.of(["abc"])
    whole = [tokenizer.bos, *tokenizer.encode(text), tokenizer.bos]
    assert encode_document(text, tokenizer, ExampleOptions(block_size, "truncate")) == [whole[: block_size + 1]]


@property_test
@given(st.lists(texts), st.integers(1, 8))
def test_skip_leaves_out_exactly_the_documents_that_do_not_fit(documents, block_size):
    tokenizer = Tokenizer.of(["abc"])
    part = encode_part(documents, tokenizer, ExampleOptions(block_size, "skip"))
    assert [tokenizer.decode(example) for example in part.examples] == [d for d in documents if len(d) < block_size]
    assert part.documents == len(documents)


@property_test
@given(texts, st.integers(1, 8), st.sampled_from(["truncate", "window", "skip"]), st.booleans())
def test_what_fits_is_one_example_under_every_policy(text, block_size, policy, closed):
    tokenizer = Tokenizer.of(["abc"])
    cut = ExampleOptions(block_size, policy, closed)
    whole = [tokenizer.bos, *tokenizer.encode(text)] + [tokenizer.bos] * closed
    assert is_long(text, cut) == (len(whole) - 1 > block_size)
    if not is_long(text, cut):
        assert encode_document(text, tokenizer, cut) == [whole]


@pytest.mark.parametrize(("policy", "examples"), [("truncate", 3), ("window", 5), ("skip", 1)])
def test_long_documents_are_counted_and_treated_as_asked(policy, examples):
    corpus = corpus_of("abc\nabcd\nabcdefg\n", long_documents=policy, block_size=4)
    assert corpus.long_documents == 2
    assert len(corpus.train.examples) == examples
    assert corpus.train.documents == 3


def test_tokens_are_the_targets():
    corpus = corpus_of("abc\nab\n")
    assert corpus.train.tokens == 4 + 3
    assert corpus_of("abcdefg\n", block_size=4).train.tokens == 4


def test_the_styles_long_documents_have_a_policy_of_their_own():
    corpus = corpus_of("abcdefg\n", long_documents="truncate", block_size=4, style_documents=("hijklmn",))
    assert decoded(corpus, corpus.train.examples) == ["abcd"]
    assert decoded(corpus, corpus.style_train.examples) == ["hijk", "klmn"]
    assert corpus.long_documents == 1


def test_skipping_every_document_is_an_error_that_says_why():
    with pytest.raises(UserError, match=r"data\.long_documents=skip leaves no documents to train on: all 2 are too"):
        corpus_of("abcdefgh\nabcdefghi\n", long_documents="skip", block_size=4)


def test_skipping_all_that_was_held_out_is_an_error_too():
    text = "".join(f"{'x' * (i + 8)}\n" for i in range(10))
    _, val = split(text.split(), 0.1, 0)
    short = "".join(f"{line if line in val else line[:1] + str(i)}\n" for i, line in enumerate(text.split()))
    held_out = split(short.split(), 0.1, 0)[1]
    assert all(len(document) > 4 for document in held_out)
    with pytest.raises(UserError, match="leaves no documents to validate with"):
        corpus_of(short, long_documents="skip", block_size=4, val_fraction=0.1)


# The formats


@property_test
@given(st.text("abc \n", min_size=1, max_size=60), st.integers(1, 8))
def test_in_a_stream_every_character_is_a_target_exactly_once(text, block_size):
    corpus = corpus_of(text, text_format="stream", block_size=block_size)
    targets = [token for example in corpus.train.examples for token in example[1:]]
    assert corpus.tokenizer.decode(targets) == text
    assert len(targets) == len(text)
    assert corpus.train.tokens == len(text)


@property_test
@given(st.text("abc \n", min_size=1, max_size=60), st.integers(1, 8))
def test_pieces_of_a_stream_start_with_bos_and_have_none_inside(text, block_size):
    corpus = corpus_of(text, text_format="stream", block_size=block_size)
    for example in corpus.train.examples:
        assert example[0] == corpus.tokenizer.bos
        assert corpus.tokenizer.bos not in example[1:]
        assert len(example) - 1 <= block_size
    assert corpus.long_documents == 0


def test_a_stream_keeps_its_blanks_and_line_breaks():
    corpus = corpus_of("  a\n\n b \n", text_format="stream", block_size=3)
    assert decoded(corpus, corpus.train.examples) == ["  a", "\n\n ", "b \n"]


def test_a_stream_is_split_by_distinct_piece():
    corpus = corpus_of("abab" * 40 + "".join(f"{i:04d}" for i in range(60)), text_format="stream", val_fraction=0.2,
                       block_size=4)  # fmt: skip
    train, val = (set(decoded(corpus, part.examples)) for part in (corpus.train, corpus.val))
    assert not train & val
    assert len(val) == round(0.2 * len(train | val))


@pytest.mark.parametrize(
    "text", ["ann\nbob\n", "ann\r\nbob\r\n", "ann\rbob", "\n\n  ann \n \t \n\tbob\n\n", "ann\nbob"]
)
def test_lines_are_stripped_and_blank_ones_dropped_whatever_ends_a_line(text):
    corpus = corpus_of(text)
    assert decoded(corpus, corpus.train.examples) == ["ann", "bob"]
    assert corpus.documents == 2
    assert corpus.tokenizer.chars == sorted(set("annbob"))


def test_only_line_breaks_end_a_line():
    corpus = corpus_of("a\x0bb\x1cc\u2028d\x85e\n")
    assert decoded(corpus, corpus.train.examples) == ["a\x0bb\x1cc\u2028d\x85e"]


# The data sets


def test_the_embedded_names_are_distinct_lower_case_words():
    names = read_source("names", None).text.splitlines()
    assert len(names) == len(set(names)) == 29910
    assert set("".join(names)) == set(string.ascii_lowercase)
    assert all(names)


def test_the_reference_names_have_no_leak_between_training_and_validation():
    folder = os.environ.get("MICROGPT_DATA_DIR")
    if not folder or not (Path(folder) / "names.txt").is_file():
        pytest.skip("MICROGPT_DATA_DIR has no names.txt: the reference data set is not on this machine")
    corpus = build_corpus(
        read_source("makemore", None),
        text_format="lines",
        long_documents="truncate",
        val_fraction=0.1,
        split_seed=0,
        block_size=16,
    )
    train, val = (set(decoded(corpus, part.examples)) for part in (corpus.train, corpus.val))
    assert corpus.documents == corpus.train.documents + corpus.val.documents == 32033
    assert len(train) + len(val) == 29494
    assert not train & val
    assert len(val) == 2949
    assert corpus.tokenizer.vocab_size == 27
    assert corpus.long_documents == 0


@property_test
@given(st.lists(st.text("ab", min_size=1, max_size=20), min_size=1, max_size=8), st.integers(1, 10))
def test_the_head_of_a_part_is_whole_documents(documents: list[str], count: int) -> None:
    tokenizer, cut = Tokenizer(["a", "b"]), ExampleOptions(4, "window")
    part = encode_part(documents, tokenizer, cut)
    assert part.head(count) == encode_part(documents[:count], tokenizer, cut).examples
    assert part.head(None) == part.examples
