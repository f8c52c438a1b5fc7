"""Characters to ids and back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microgpt.data.tokenizer import CHAT_SPECIAL, Tokenizer
from microgpt.errors import UserError

property_test = settings(deadline=None, database=None, max_examples=60)


@property_test
@given(st.lists(st.text(), min_size=1))
def test_decoding_what_was_encoded_gives_the_text_back(texts):
    tokenizer = Tokenizer.of(texts)
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@property_test
@given(st.lists(st.text(), min_size=1))
def test_ids_follow_the_sorted_characters_and_bos_comes_last(texts):
    tokenizer = Tokenizer.of(texts)
    distinct = sorted(set("".join(texts)))
    assert tokenizer.chars == distinct
    assert tokenizer.encode("".join(distinct)) == list(range(len(distinct)))
    assert tokenizer.bos == len(distinct)
    assert tokenizer.vocab_size == len(distinct) + 1


def test_the_lower_case_alphabet_has_the_ids_of_the_reference():
    tokenizer = Tokenizer.of(["zyxwvutsrqponm", "abcdefghijklm"])
    assert (tokenizer.vocab_size, tokenizer.bos) == (27, 26)
    assert tokenizer.encode("emma") == [4, 12, 12, 0]


@property_test
@given(st.lists(st.text()))
def test_ids_do_not_depend_on_the_order_of_the_texts(texts):
    assert Tokenizer.of(texts).ids == Tokenizer.of(texts[::-1]).ids


def test_bos_has_no_text_wherever_it_stands():
    tokenizer = Tokenizer.of(["ab"])
    assert tokenizer.decode([tokenizer.bos, 1, tokenizer.bos, 0, tokenizer.bos]) == "ba"


def test_no_text_leaves_bos_alone():
    tokenizer = Tokenizer.of([])
    assert (tokenizer.chars, tokenizer.bos, tokenizer.vocab_size) == ([], 0, 1)


def test_a_tokenizer_of_recorded_characters_equals_the_one_that_found_them():
    found = Tokenizer.of(["quartz", "neon"])
    assert Tokenizer(found.chars).ids == found.ids


def test_every_unknown_character_is_named_once_in_the_order_of_the_text():
    tokenizer = Tokenizer.of(["abc"])
    with pytest.raises(UserError) as caught:
        tokenizer.encode("aZb!Zé", "sample.prompt")
    message = str(caught.value)
    assert message.startswith("sample.prompt='aZb!Zé'")
    assert "does not know: 'Z' '!' 'é' " in message
    assert "'abc'" in message
    assert caught.value.exit_code == 2


@property_test
@given(st.text(alphabet="abc"), st.text(alphabet="XYZ\n\t ", min_size=1))
def test_unknown_characters_are_never_dropped_silently(known, unknown):
    with pytest.raises(UserError) as caught:
        Tokenizer(list("abc")).encode(known + unknown + known)
    named = str(caught.value).split("does not know: ")[1].split(" (it knows")[0]
    assert named == " ".join(repr(char) for char in dict.fromkeys(unknown))


def test_an_error_about_a_huge_text_stays_short():
    text = "x" * 1_000_000 + "".join(map(chr, range(0x4E00, 0x5000)))
    with pytest.raises(UserError) as caught:
        Tokenizer(list("abc")).encode(text)
    message = str(caught.value)
    assert len(message) < 1000
    assert "'x' '\u4e00' " in message
    assert " and 463 more (it knows 'abc')" in message


# Special tokens


def test_the_special_tokens_of_chat_come_between_the_characters_and_bos():
    tokenizer = Tokenizer.of(["abc"], CHAT_SPECIAL)
    assert tokenizer.special == ("user", "assistant", "end_turn")
    assert tokenizer.special_ids == {"user": 3, "assistant": 4, "end_turn": 5}
    assert (tokenizer.bos, tokenizer.vocab_size) == (6, 7)


@property_test
@given(st.text(), st.data())
def test_special_tokens_have_no_text_wherever_they_stand(text, data):
    tokenizer = Tokenizer.of([text], CHAT_SPECIAL)
    ids = tokenizer.encode(text)
    for special in [*tokenizer.special_ids.values(), tokenizer.bos]:
        ids.insert(data.draw(st.integers(0, len(ids))), special)
    assert tokenizer.decode(ids) == text


@property_test
@given(st.text())
def test_no_text_is_encoded_as_a_special_token(text):
    text += "".join(CHAT_SPECIAL)
    tokenizer = Tokenizer.of([text], CHAT_SPECIAL)
    assert len(tokenizer.encode(text)) == len(text)
    assert max(tokenizer.encode(text)) < min(tokenizer.special_ids.values())


@pytest.mark.parametrize("i", [-1, -4, 7, 100])
def test_what_is_no_id_is_not_decoded(i):
    with pytest.raises(KeyError):
        Tokenizer.of(["abc"], CHAT_SPECIAL).decode([0, i])
