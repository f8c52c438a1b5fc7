"""The embedded chat set is always the same, and what it teaches is true."""

import hashlib
import json
import re
import string
from itertools import pairwise

import pytest

from microgpt.data.lessons import chat_text

DIGEST = "9f67615ca977"  # the beginning of its SHA-256
LETTERS = set(string.ascii_lowercase + string.digits + " .,?!'+-=")
NUMBERS = {
    word: n for n, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
}
ASKED = re.compile(rf"\b(\d+|{'|'.join(NUMBERS)}) ?(\+|-|plus|minus) ?(\d+|{'|'.join(NUMBERS)})\b")
SMALL = {(a, sign, b) for a in range(10) for b in range(10) for sign in "+-" if sign == "+" or a >= b}

Turns = list[dict[str, str]]


@pytest.fixture(scope="module")
def conversations() -> list[Turns]:
    return [json.loads(line) for line in chat_text().splitlines()]


@pytest.fixture(scope="module")
def exchanges(conversations: list[Turns]) -> list[tuple[str, str]]:
    return [
        (asked["content"], answered["content"])
        for turns in conversations
        for asked, answered in zip(turns[::2], turns[1::2], strict=True)
    ]


def sum_asked(question: str) -> tuple[int, str, int] | None:
    """The sum in a question, in figures or in letters, or None."""
    found = ASKED.search(question)
    if found is None:
        return None
    a, b = (NUMBERS[n] if n in NUMBERS else int(n) for n in found.group(1, 3))
    return a, {"plus": "+", "minus": "-"}.get(found[2], found[2]), b


def test_a_build_is_always_the_same() -> None:
    assert hashlib.sha256(chat_text().encode()).hexdigest().startswith(DIGEST), (
        "say so in CHANGELOG.md and change DIGEST"
    )


def test_the_chat_set_is_of_few_letters(conversations: list[Turns]) -> None:
    assert {letter for turns in conversations for turn in turns for letter in turn["content"]} == LETTERS


def test_user_and_assistant_take_turns_and_no_turn_is_empty(conversations: list[Turns]) -> None:
    for turns in conversations:
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert turns
        assert all(turn["content"].strip() == turn["content"] != "" for turn in turns)


def test_every_conversation_fits_the_block_and_the_longest_nearly_fill_it(conversations: list[Turns]) -> None:
    lengths = sorted(2 + sum(2 + len(turn["content"]) for turn in turns) for turns in conversations)
    assert lengths[-1] <= 240
    assert lengths[-30] > 225  # positions that are never trained would say nothing sensible


def test_no_conversation_is_there_twice(conversations: list[Turns]) -> None:
    assert len({json.dumps(turns) for turns in conversations}) == len(conversations) > 9000


def test_every_sum_is_right_and_every_small_sum_is_taught(exchanges: list[tuple[str, str]]) -> None:
    taught = set()
    for question, answer in exchanges:
        asked = sum_asked(question)
        if asked is None:
            assert " = " not in answer
            continue
        a, sign, b = asked
        result = a + b if sign == "+" else a - b
        if max(a, b) > 9:
            assert answer == "i only know sums of small numbers."
        elif result < 0:
            assert answer == f"{a} - {b} is less than 0."
        else:
            assert answer == f"{a} {sign} {b} = {result}."
            taught.add(asked)
    assert taught == SMALL


def test_most_conversations_have_several_turns_and_more_than_half_a_sum(conversations: list[Turns]) -> None:
    sums = sum(any(sum_asked(turn["content"]) for turn in turns) for turns in conversations)
    several = sum(len(turns) > 2 for turns in conversations)
    assert 0.6 < several / len(conversations) < 0.7
    assert 0.5 < sums / len(conversations) < 0.7


def test_a_name_that_is_remembered_was_told_in_the_same_conversation(conversations: list[Turns]) -> None:
    names = set()
    for turns in conversations:
        told = None
        for asked, answered in pairwise(turns):
            if met := re.fullmatch(r"nice to meet you, (\w+)\.", answered["content"]):
                told = met[1]
                assert re.search(rf"\b{told}\b", asked["content"])
            if answered["content"].startswith("your name is "):
                assert answered["content"] == f"your name is {told}."
                names.add(told)
            if answered["content"].startswith("you have not told"):
                assert told is None
    assert len(names) > 200


def test_a_question_alone_has_one_answer(conversations: list[Turns]) -> None:
    answers: dict[str, str] = {}
    for asked, answered in (turns for turns in conversations if len(turns) == 2):
        assert answers.setdefault(asked["content"].rstrip("?.!"), answered["content"]) == answered["content"]
