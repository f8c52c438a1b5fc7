"""Conversations: what is read and what is refused, the examples and their masks, and the prompt that always fits."""

import json
import os
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from microgpt.data.conversations import (
    LOSS_ON,
    MIN_PROMPT,
    ROLES,
    Turn,
    encode_conversation,
    encode_prompt_turns,
    is_long_conversation,
    parse_conversations,
    turns_of,
)
from microgpt.data.tokenizer import CHAT_SPECIAL, Tokenizer, count_targets, token_id
from microgpt.errors import UserError

property_test = settings(deadline=None, database=None, max_examples=100)

TOKENIZER = Tokenizer.of(["abcdefgh \n"], CHAT_SPECIAL)
USER, ASSISTANT, END = (TOKENIZER.special_ids[name] for name in CHAT_SPECIAL)
BOS = TOKENIZER.bos

contents = st.text("abcdefgh \n", max_size=12)
turns = st.builds(Turn, st.sampled_from(ROLES), contents)
conversations = st.lists(turns, max_size=8).map(tuple)
learnable = st.builds(
    lambda head, answer: (*head, Turn("assistant", answer)),
    conversations,
    contents.filter(str.strip),
)
questions = st.builds(
    lambda head, question: (*head, Turn("user", question)),
    conversations,
    st.text("abcdefgh \n", min_size=1, max_size=40),
)
blocks = st.integers(6, 120)


def dialogue(*contents: str) -> tuple[Turn, ...]:
    """Turns of the user and the assistant, who alternate."""
    return tuple(Turn(ROLES[i % 2], content) for i, content in enumerate(contents))


def line(*turns: Turn) -> str:
    return json.dumps([{"role": turn.role, "content": turn.content} for turn in turns])


def turn_ids(turn: Turn) -> list[int]:
    return [TOKENIZER.special_ids[turn.role], *TOKENIZER.encode(turn.content), END]


def whole(conversation) -> list[int]:
    return [BOS, *chain.from_iterable(map(turn_ids, conversation)), BOS]


def has_silence(conversation) -> bool:
    """Whether there may be a silence between a question and its answer, which can fill a small block."""
    return any(turn.role == "assistant" and not turn.has_targets for turn in conversation)


def shown(example) -> str:
    """An example to read: U and A for the roles, . for end_turn, ^ for BOS; what is not asked for in brackets."""
    names = dict(enumerate(TOKENIZER.chars)) | {USER: "U", ASSISTANT: "A", END: ".", BOS: "^"}
    text = "".join(names[token] if token >= 0 else f"[{names[token_id(token)]}]" for token in example)
    return text.replace("][", "")


# Reading


@property_test
@given(st.lists(learnable, min_size=1, max_size=5), st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n \t\n"]))
def test_what_was_written_is_read_with_every_kind_of_line_end(written, end):
    lines = [line(*turns) for turns in written]
    for text in (end.join(lines), "".join(written + end for written in lines)):
        for mark in ("", "\ufeff"):
            found = parse_conversations(mark + text, "chat.jsonl")
            assert found.conversations == written
            assert (found.skipped, found.trimmed) == (0, 0)


def test_contents_are_kept_as_they_are():
    content = " \r\n  é\u2028\x85 \U0001f600\t "
    text = json.dumps([{"role": "user", "content": content}, {"role": "assistant", "content": "a"}], ensure_ascii=False)
    assert parse_conversations(text, "f").conversations == [dialogue(content, "a")]


QUESTION, ANSWER = dialogue("a?", "b!")
SILENCE = Turn("assistant", " \n")


@pytest.mark.parametrize(
    ("whole", "kept"),
    [
        pytest.param((QUESTION, ANSWER), 2, id="a question and its answer"),
        pytest.param((ANSWER,), 1, id="only an answer"),
        pytest.param((ANSWER, QUESTION, ANSWER), 3, id="the assistant begins"),
        pytest.param((QUESTION, QUESTION, ANSWER, ANSWER), 4, id="roles that do not alternate"),
        pytest.param((Turn("user", ""), ANSWER), 2, id="an empty question"),
        pytest.param((QUESTION, SILENCE, QUESTION, ANSWER), 4, id="a silence between"),
        pytest.param((QUESTION, ANSWER, QUESTION), 2, id="a question without an answer at the end"),
        pytest.param((QUESTION, ANSWER, QUESTION, SILENCE), 2, id="a silence at the end"),
        pytest.param((QUESTION, ANSWER, QUESTION, QUESTION), 2, id="two questions at the end"),
        pytest.param((QUESTION,), 0, id="only a question"),
        pytest.param((QUESTION, SILENCE), 0, id="only a silence"),
        pytest.param((QUESTION, Turn("assistant", "")), 0, id="only an empty answer"),
        pytest.param((), 0, id="no turns"),
    ],
)
def test_what_follows_the_last_answer_is_trimmed_and_what_has_none_is_skipped(whole, kept):
    found = parse_conversations(f"{line(QUESTION, ANSWER)}\n{line(*whole)}\n", "f")
    assert found.conversations == [(QUESTION, ANSWER), *([whole[:kept]] if kept else [])]
    assert found.trimmed == (0 < kept < len(whole))
    assert found.skipped == (kept == 0)


@property_test
@given(st.lists(conversations, min_size=1))
def test_every_conversation_is_kept_or_skipped_and_trimmed_ones_are_counted(written):
    text = "\n".join(line(*turns) for turns in written)
    if not any(turn.role == "assistant" and turn.content.strip() for turns in written for turn in turns):
        with pytest.raises(UserError, match="nothing to learn from"):
            parse_conversations(text, "f")
        return
    found = parse_conversations(text, "f")
    assert len(found.conversations) + found.skipped == len(written)
    rest = iter(written)  # in the order of the file
    origins = [next(turns for turns in rest if turns[: len(kept)] == kept) for kept in found.conversations]
    assert found.trimmed == sum(kept != turns for kept, turns in zip(found.conversations, origins, strict=True))
    for kept in found.conversations:
        assert kept[-1].role == "assistant"
        assert kept[-1].content.strip()


def test_other_keys_are_passed_over_whatever_they_hold():
    deep = "[" * 50 + "]" * 50
    text = (
        '[{"id": 1, "role": "user", "content": "a"}, '
        f'{{"role": "assistant", "content": "b", "n": 1{"0" * 5000}, "deep": {deep}, "lang": "en"}}]'
    )
    assert parse_conversations(text, "f").conversations == [dialogue("a", "b")]


GOOD = line(QUESTION, ANSWER)
USER_A = '{"role": "user", "content": "a"}'


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('[{"role": "x", "content": "a"}]', 'line 3: unknown role "x" (expected "user" or "assistant")'),
        ('[{"role": "User", "content": "a"}]', 'line 3: unknown role "User" (expected'),
        ('[{"role": "", "content": "a"}]', 'line 3: unknown role "" (expected'),
        (f'[{{"role": "{"é" * 9999}", "content": "a"}}]', 'line 3: unknown role "' + r"\u00e9" * 40 + '" (expected'),
        ('[{"role": "user", "content": "a"}', "invalid JSON on line 3: Expecting ',' delimiter at column"),
        ("hello", "invalid JSON on line 3: Expecting value at column 1"),
        ("[]]", "invalid JSON on line 3: Extra data at column 3"),
        (f"[{USER_A}] [{USER_A}]", "invalid JSON on line 3: Extra data"),
        ('[{"role": "user", "content": "a\tb"}]', "invalid JSON on line 3: Invalid control character at"),
        (f'[{{"a": NaN, {USER_A[1:]}]', "invalid JSON on line 3: NaN is not a JSON value"),
        (f'[{{"a": -Infinity, {USER_A[1:]}]', "invalid JSON on line 3: -Infinity is not a JSON value"),
        ("[" * 100_000 + "]" * 100_000, "invalid JSON on line 3: nested too deeply"),
        (f'[{{"a": {"[" * 100_000}', "invalid JSON on line 3: nested too deeply"),
        (USER_A, 'line 3: expected an array of messages like [{"role": "user", "content": "Hello"}], or an object'),
        ('"a"', "line 3: expected an array of messages like"),
        ("null", "found null"),
        ("true", "found true"),
        ("3", "found a number"),
        (f'[{USER_A}, "a"]', 'line 3: message 2 must be an object with "role" and "content", found a string'),
        ('[{"content": "a"}]', 'line 3: message 1 has no "role"'),
        (f'[{USER_A}, {{"role": "assistant"}}]', 'line 3: message 2 has no "content"'),
        ('[{"role": "user", "content": null}]', 'line 3: "content" of message 1 must be a string, found null'),
        ('[{"role": "user", "content": ["a"]}]', 'line 3: "content" of message 1 must be a string, found an array'),
        ('[{"role": 1, "content": "a"}]', 'line 3: "role" of message 1 must be a string, found a number'),
        (r'[{"role": "user", "content": "a\ud83d"}]', r'"content" of message 1 has half a surrogate pair, \ud83d'),
    ],
)  # fmt: skip
def test_an_error_names_the_file_and_the_line(bad, said):
    with pytest.raises(UserError) as caught:
        parse_conversations(f"{GOOD}\n\n{bad}\n{GOOD}", "data.path=chat.jsonl")
    message = str(caught.value)
    assert message.startswith("data.path=chat.jsonl: ")
    assert said in message
    assert len(message) < 400
    assert message.isascii()  # half a surrogate pair could not be printed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f is empty: a chat data set needs at least one line with a conversation"),
        ("\ufeff \n\r\n\t", "f is empty"),
        ("[]", "f has nothing to learn from: no assistant turn with text in its 1 conversation"),
        (f"{line(QUESTION)}\n{line(QUESTION, SILENCE)}", "no assistant turn with text in its 2 conversations"),
    ],
)
def test_nothing_to_learn_from_is_said(text, said):
    with pytest.raises(UserError) as caught:
        parse_conversations(text, "f")
    assert said in str(caught.value)


def test_a_huge_line_is_read():
    huge = dialogue("a" * 3_000_000, "b" * 3_000_000)
    assert parse_conversations(line(*huge), "f").conversations == [huge]


@property_test
@given(st.text() | st.lists(st.sampled_from([GOOD, USER_A, "[", "]", "{", "}", '"', "\n", ",", "\\u"])).map("".join))
def test_any_text_is_read_or_refused_with_a_sentence(text):
    try:
        found = parse_conversations(text, "f")
    except UserError as error:
        said = str(error)
    else:
        assert found.conversations
        return
    assert said.startswith("f")
    assert len(said) < 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(ROLES),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["role", "content"]) | st.text(), inner),
)


@property_test
@given(json_values)
def test_any_json_is_turns_or_refused_with_a_sentence(value):
    try:
        found = turns_of(value, "messages")
    except UserError as error:
        said = str(error)
    else:
        assert found == tuple(Turn(message["role"], message["content"]) for message in value)
        return
    assert said.startswith("messages: ")


# Examples


@pytest.mark.parametrize(
    ("conversation", "loss_on", "expected"),
    [
        (dialogue("ab", "cd"), "assistant", "^[Uab.A]cd.[^]"),
        (dialogue("ab", "cd"), "all", "^Uab.Acd.^"),
        (dialogue("a", "b", "c", "d"), "assistant", "^[Ua.A]b.[Uc.A]d.[^]"),
        (dialogue("a", "b", "c", "d"), "all", "^Ua.Ab.Uc.Ad.^"),
        ((Turn("assistant", "a"), *dialogue("b", "c")), "assistant", "^[A]a.[Ub.A]c.[^]"),
        ((*dialogue("b", ""), *dialogue("c", "d")), "assistant", "^[Ub.A.Uc.A]d.[^]"),
        ((*dialogue("b", ""), *dialogue("c", "d")), "all", "^Ub.A.Uc.Ad.^"),
        ((*dialogue("a", "b"), Turn("user", "c")), "assistant", "^[Ua.A]b.[^]"),
        (dialogue("a"), "all", None),
        (dialogue("a", " "), "assistant", None),
        ((), "all", None),
    ],
)
def test_answers_and_their_ends_are_asked_for_or_everything_is(conversation, loss_on, expected):
    example = encode_conversation(conversation, TOKENIZER, 100, loss_on)
    assert (shown(example) if example else None) == expected


@property_test
@given(learnable, st.sampled_from(LOSS_ON))
def test_an_example_that_fits_holds_the_whole_conversation(conversation, loss_on):
    block_size = len(whole(conversation)) - 1
    example = encode_conversation(conversation, TOKENIZER, block_size, loss_on)
    assert example is not None
    assert list(map(token_id, example)) == whole(conversation)
    assert TOKENIZER.decode(map(token_id, example)) == "".join(turn.content for turn in conversation)
    answers = [turn for turn in conversation if turn.role == "assistant" and turn.content.strip()]
    asked = sum(len(turn.content) + 1 for turn in answers)
    assert count_targets(example) == (asked if loss_on == "assistant" else len(example) - 1)


@property_test
@given(conversations, st.integers(1, 80), st.sampled_from(LOSS_ON))
def test_an_example_fits_the_block_and_asks_for_something(conversation, block_size, loss_on):
    example = encode_conversation(conversation, TOKENIZER, block_size, loss_on)
    if example is None:
        assert (
            block_size < MIN_PROMPT or not any(turn.has_targets for turn in conversation) or has_silence(conversation)
        )
        return
    assert example[0] == BOS
    assert 2 <= len(example) <= block_size + 1
    assert count_targets(example) >= 1
    assert all(0 <= token_id(token) < TOKENIZER.vocab_size for token in example)


@property_test
@given(conversations, st.integers(1, 80))
def test_what_is_asked_for_does_not_change_what_is_read(conversation, block_size):
    answers, everything = (encode_conversation(conversation, TOKENIZER, block_size, loss_on) for loss_on in LOSS_ON)
    if answers is not None:
        assert everything == list(map(token_id, answers))


@property_test
@given(learnable, st.integers(5, 80))
def test_a_long_conversation_keeps_its_latest_turns_and_the_beginning_of_its_answer(conversation, block_size):
    assume(is_long_conversation(conversation, block_size))
    example = encode_conversation(conversation, TOKENIZER, block_size)
    if example is None:
        assert has_silence(conversation)
        return
    found = list(map(token_id, example))
    ids = whole(conversation)
    asking = [i for i, turn in enumerate(conversation) if turn.role == "user"]
    least = asking[-1] if asking else len(conversation) - 1  # the latest turn with which an example may begin
    suffixes = [[BOS, *chain.from_iterable(map(turn_ids, conversation[i:]))] for i in range(least + 1)]
    fitting = [suffix for suffix in suffixes if len(suffix) <= block_size + 1]
    if fitting:  # whole turns, as many as there is room for
        assert found[: len(fitting[0])] == fitting[0]
        assert found[len(fitting[0]) :] in ([], [BOS])
        return
    assert len(found) == block_size + 1
    assert found[:2] == [BOS, TOKENIZER.special_ids[conversation[least].role]]
    question, rest = conversation[least], ids[1 + sum(turn.tokens for turn in conversation[: least + 1]) : -1]
    if question.role == "assistant":
        assert found == suffixes[-1][: block_size + 1]
        return
    kept = TOKENIZER.decode(found[2 : found.index(END)])
    assert question.content.endswith(kept)
    assert bool(kept) == bool(question.content)
    after = found[found.index(END) + 1 :]
    assert after == rest[: len(after)]
    if len(after) < len(rest):  # an answer is cut only when its question is down to what a prompt would keep of it
        assert len(kept) <= max(1, block_size - block_size // 4 - 4)


@pytest.mark.parametrize(
    ("block_size", "expected"),
    [
        (24, "^[Uab.A]cd.[Uefg.A]habc.[^]"),
        (20, "^[Uab.A]cd.[Uefg.A]habc.[^]"),
        (19, "^[Uab.A]cd.[Uefg.A]habc."),
        (18, "^[A]cd.[Uefg.A]habc.[^]"),
        (15, "^[A]cd.[Uefg.A]habc."),
        (14, "^[Uefg.A]habc.[^]"),
        (13, "^[Uefg.A]habc.[^]"),
        (12, "^[Uefg.A]habc.[^]"),
        (11, "^[Uefg.A]habc."),
        (10, "^[Uefg.A]habc"),
        (9, "^[Uefg.A]hab"),
        (8, "^[Ufg.A]hab"),
        (5, "^[Ug.A]h"),
        (4, None),
    ],
)
def test_turns_go_first_then_the_head_of_the_question_then_the_end_of_the_answer(block_size, expected):
    conversation = dialogue("ab", "cd", "efg", "habc")
    example = encode_conversation(conversation, TOKENIZER, block_size)
    assert (shown(example) if example else None) == expected
    assert is_long_conversation(conversation, block_size) == (block_size < 19)


def test_an_unknown_character_in_a_conversation_is_named():
    with pytest.raises(UserError, match="user='aZb' has characters that the model does not know: 'Z' "):
        encode_conversation(dialogue("aZb", "c"), TOKENIZER, 100)


# Prompts


@property_test
@given(questions, blocks)
def test_a_prompt_fits_the_block_with_room_for_the_answer_and_keeps_its_frame(turns, block_size):
    prompt, dropped = encode_prompt_turns(turns, TOKENIZER, block_size)
    assert len(prompt) + block_size // 4 <= block_size
    assert prompt[0] == BOS
    assert BOS not in prompt[1:]
    assert prompt[-2:] == [END, ASSISTANT]
    assert dropped >= 0


@property_test
@given(questions, blocks)
def test_the_dropped_tokens_are_counted_exactly(turns, block_size):
    prompt, dropped = encode_prompt_turns(turns, TOKENIZER, block_size)
    complete = [*whole(turns)[:-1], ASSISTANT]
    assert len(prompt) + dropped == len(complete)
    if dropped == 0:
        assert prompt == complete


@property_test
@given(questions, blocks)
def test_whole_oldest_turns_go_first_and_no_more_than_must(turns, block_size):
    prompt, dropped = encode_prompt_turns(turns, TOKENIZER, block_size)
    room = block_size - block_size // 4
    suffixes = [[BOS, *chain.from_iterable(map(turn_ids, turns[i:])), ASSISTANT] for i in range(len(turns))]
    fitting = [suffix for suffix in suffixes if len(suffix) <= room]
    if fitting:
        assert prompt == fitting[0]
    else:  # only the tail of the last turn is left, and it fills the room
        assert len(prompt) == room
        assert dropped > 0


@property_test
@given(questions, blocks)
def test_the_last_user_turn_is_never_emptied_and_loses_its_head(turns, block_size):
    prompt, _ = encode_prompt_turns(turns, TOKENIZER, block_size)
    begin = len(prompt) - 1 - prompt[::-1].index(USER)
    kept = TOKENIZER.decode(prompt[begin:])
    assert kept
    assert turns[-1].content.endswith(kept)
    if kept != turns[-1].content:
        assert prompt == [BOS, USER, *TOKENIZER.encode(kept), END, ASSISTANT]


@pytest.mark.parametrize(
    ("block_size", "expected", "dropped"),
    [
        (100, "^Uab.Acd.Uefgh.A", 0),
        (21, "^Uab.Acd.Uefgh.A", 0),
        (20, "^Acd.Uefgh.A", 4),
        (16, "^Acd.Uefgh.A", 4),
        (15, "^Acd.Uefgh.A", 4),
        (14, "^Uefgh.A", 8),
        (10, "^Uefgh.A", 8),
        (9, "^Ufgh.A", 9),
        (8, "^Ugh.A", 10),
        (7, "^Ugh.A", 10),
        (6, "^Uh.A", 11),
    ],
)
def test_a_prompt_by_hand(block_size, expected, dropped):
    prompt, count = encode_prompt_turns(dialogue("ab", "cd", "efgh"), TOKENIZER, block_size)
    assert (shown(prompt), count) == (expected, dropped)


@property_test
@given(questions, blocks, contents.filter(str.strip), st.sampled_from(LOSS_ON))
def test_an_example_begins_as_the_prompt_for_its_answer(turns, block_size, answer, loss_on):
    prompt, dropped = encode_prompt_turns(turns, TOKENIZER, block_size)
    conversation = (*turns, Turn("assistant", answer))
    assume(dropped == 0 and not is_long_conversation(conversation, block_size))
    example = encode_conversation(conversation, TOKENIZER, block_size, loss_on)
    assert example is not None
    assert list(map(token_id, example[: len(prompt)])) == prompt
    assert example[len(prompt) :][: len(answer) + 1] == [*TOKENIZER.encode(answer), END]


@pytest.mark.parametrize("block_size", range(1, 6))
def test_a_block_too_small_for_any_prompt_is_refused(block_size):
    with pytest.raises(UserError, match=rf"model\.block_size={block_size} is too small for a chat: it leaves \d "):
        encode_prompt_turns(dialogue("a"), TOKENIZER, block_size)


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ((), 'the last message must have the role "user": there is nothing to answer'),
        (dialogue("a", "b"), 'the last message must have the role "user"'),
        (dialogue("a", "b", ""), "the last message is empty: there is nothing to answer"),
        (dialogue("aé", "b", "c"), "user='aé' has characters that the model does not know: 'é' (it knows"),
        (dialogue("a", "bZ!", "c"), "assistant='bZ!' has characters that the model does not know: 'Z' '!' (it knows"),
        (dialogue("\ud83d"), r"user='\ud83d' has characters that the model does not know: '\ud83d' (it knows"),
    ],
)
def test_what_cannot_be_a_prompt_is_refused_with_the_reason(turns, said):
    with pytest.raises(UserError) as caught:
        encode_prompt_turns(turns, TOKENIZER, 100)
    assert said in str(caught.value)


def test_an_unknown_character_is_named_even_in_a_turn_that_is_left_out():
    with pytest.raises(UserError, match="'Z'"):
        encode_prompt_turns(dialogue("Z", "b", "c" * 100), TOKENIZER, 20)


# The real file


@pytest.fixture(scope="module")
def oasst1():
    folder = os.environ.get("MICROGPT_DATA_DIR")
    file = Path(folder or "") / "oasst1_chat.jsonl"
    if not folder or not file.is_file():
        pytest.skip("MICROGPT_DATA_DIR has no oasst1_chat.jsonl: the real conversations are not on this machine")
    return parse_conversations(file.read_text(encoding="utf-8"), str(file))


def test_the_conversations_of_oasst1_are_all_read(oasst1):
    assert len(oasst1.conversations) == 1905
    assert (oasst1.skipped, oasst1.trimmed) == (0, 759)
    tokenizer = Tokenizer.of((turn.content for turns in oasst1.conversations for turn in turns), CHAT_SPECIAL)
    assert (len(tokenizer.chars), tokenizer.vocab_size) == (96, 100)


@pytest.mark.parametrize(("block_size", "long"), [(256, 1736), (2048, 2)])
def test_the_conversations_of_oasst1_all_become_examples(oasst1, block_size, long):
    tokenizer = Tokenizer.of((turn.content for turns in oasst1.conversations for turn in turns), CHAT_SPECIAL)
    examples = [encode_conversation(turns, tokenizer, block_size) for turns in oasst1.conversations]
    assert sum(is_long_conversation(turns, block_size) for turns in oasst1.conversations) == long
    for turns, example in zip(oasst1.conversations, examples, strict=True):
        assert example is not None
        assert len(example) <= block_size + 1
        ids = list(map(token_id, example))
        answer = ids[len(ids) - ids[::-1].index(tokenizer.special_ids["assistant"]) :]
        assert turns[-1].content.startswith(tokenizer.decode(answer))
        assert tokenizer.decode(answer)


# Formats of other programs

TALK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHAREGPT = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
ALPACA = {"instruction": "a", "input": "", "output": "b"}


@pytest.mark.parametrize("conversation", [TALK, {"messages": TALK, "id": 3}, SHAREGPT, ALPACA], ids=str)
@pytest.mark.parametrize("indent", [None, 1])
def test_every_format_is_read_from_lines_and_from_an_array(conversation: object, indent: int | None) -> None:
    expected = [dialogue("a", "b")] * 2
    array = json.dumps([conversation, conversation], indent=indent)
    assert parse_conversations(array, "f").conversations == expected
    assert (
        parse_conversations(f"{json.dumps(conversation)}\n\n{json.dumps(conversation)}\n", "f").conversations
        == expected
    )


def test_an_array_may_hold_its_conversations_a_line_each() -> None:
    lines = ",\n".join(json.dumps(one) for one in (SHAREGPT, ALPACA, TALK))
    assert parse_conversations(f"[\n{lines}\n]\n", "f").conversations == [dialogue("a", "b")] * 3


def test_alpaca_s_input_follows_its_instruction() -> None:
    record = {"instruction": "Add.", "input": "3 4", "output": "7"}
    assert parse_conversations(json.dumps(record), "f").conversations == [dialogue("Add.\n3 4", "7")]


def test_system_turns_are_dropped_and_counted() -> None:
    system = {"role": "system", "content": "Be brief."}
    sharegpt = {"conversations": [{"from": "system", "value": "x"}, *SHAREGPT["conversations"]]}
    found = parse_conversations(f"{json.dumps([system, *TALK])}\n{json.dumps(sharegpt)}\n{json.dumps(TALK)}", "f")
    assert found.conversations == [dialogue("a", "b")] * 3
    assert found.system_turns == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[\n {"instruction": "a", "output": 3}\n]\n', 'f: conversation 1: "content" of message 2 must be a string'),
        (
            '[\n {"instruction": "a", "output": "b"},\n {"instruction": \n]\n',
            "f: invalid JSON on line 4: Expecting value",
        ),
        ('{"text": "a"}', '"conversations" (ShareGPT) or "instruction" and "output" (Alpaca), found an object'),
        ('{"conversations": "a"}', '"conversations" must be an array of turns, found a string'),
        ('{"conversations": [{"from": "tool", "value": "a"}]}', 'unknown role "tool"'),
        ('{"messages": null}', "found null"),
        ('{"instruction": "a"}', '"content" of message 2 must be a string, found null'),
    ],
    ids=range(7),
)
def test_an_error_names_the_true_place_or_the_format(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_conversations(text, "f")
    assert message in str(caught.value)
