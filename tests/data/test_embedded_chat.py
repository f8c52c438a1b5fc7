"""The embedded chat set is always the same, and what it has_targets is true."""

import json
import re
import string
from collections import Counter
from itertools import pairwise

import pytest
from support.program import load_script

from microgpt.data.sources import read_source

DIGEST = "2222bdffe0df"  # the beginning of its SHA-256
LETTERS = set(string.ascii_letters + string.digits + " .,?!'+-=\":;()*/")
NUMBERS = {
    word: n for n, word in enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
}
NUMBER = rf"(\d+|{'|'.join(NUMBERS)})"
ASKED = re.compile(rf"\b{NUMBER} ?(\+|-|plus|minus|and) ?{NUMBER}\b")
COMPUTED = re.compile(r"(\d) ([+-]) (\d) (= \d+|is less than 0)\.")
SMALL = {(a, sign, b) for a in range(10) for b in range(10) for sign in "+-" if sign == "+" or a >= b}
PROPER = re.compile(r"\b(i|i'm|gpt|monday|tuesday|wednesday|thursday|friday|saturday|sunday|january|february|april)\b")
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]

Turns = list[dict[str, str]]


@pytest.fixture(scope="module")
def conversations() -> list[Turns]:
    return [json.loads(line) for line in read_source("chat", None).text.splitlines()]


def contents(turns: Turns, role: str) -> list[str]:
    return [turn["content"] for turn in turns if turn["role"] == role]


@pytest.fixture(scope="module")
def exchanges(conversations: list[Turns]) -> list[tuple[str, str]]:
    return [
        (asked["content"], answered["content"])
        for turns in conversations
        for asked, answered in pairwise(turns)
        if asked["role"] == "user"
    ]


def sum_asked(question: str) -> tuple[int, str, int] | None:
    """The sum in a question, in figures or in letters, or None."""
    found = ASKED.search(question.lower())
    if found is None:
        return None
    a, b = (NUMBERS[n] if n in NUMBERS else int(n) for n in found.group(1, 3))
    return a, {"plus": "+", "and": "+", "minus": "-"}.get(found[2], found[2]), b


def told_in(answer: str) -> str | None:
    """The user's name that an answer has."""
    found = re.fullmatch(r"(?:Nice to meet you, |Your name is )(\w+)\.", answer)
    return found and found[1]


def test_the_embedded_file_is_what_its_generator_builds(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_script("build_chat").main(["--check"]) == 0, capsys.readouterr().out


def test_the_data_set_has_not_changed() -> None:
    assert read_source("chat", None).sha256.startswith(DIGEST), "state the change in CHANGELOG.md and change DIGEST"


def test_all_letters_small_and_large_and_common_marks_occur_many_times(conversations: list[Turns]) -> None:
    counts = Counter(letter for turns in conversations for turn in turns for letter in turn["content"])
    assert set(counts) == LETTERS
    assert min(counts.values()) > 100


def test_turns_alternate_and_end_with_an_answer_and_none_is_empty(conversations: list[Turns]) -> None:
    for turns in conversations:
        assert turns
        assert [turn["role"] for turn in reversed(turns)] == (["assistant", "user"] * len(turns))[: len(turns)]
        assert all(turn["content"].strip() == turn["content"] != "" for turn in turns)


def test_every_conversation_fits_the_block_and_the_longest_nearly_fill_it(conversations: list[Turns]) -> None:
    lengths = sorted(2 + sum(2 + len(turn["content"]) for turn in turns) for turns in conversations)
    assert lengths[-1] <= 256
    assert lengths[-100] > 240  # positions that are never trained would say nothing sensible


def test_no_conversation_is_there_twice(conversations: list[Turns]) -> None:
    assert len({json.dumps(turns) for turns in conversations}) == len(conversations) > 9000


def test_many_conversations_begin_with_an_answer_as_a_prompt_does_whose_oldest_turns_were_left_out(
    conversations: list[Turns],
) -> None:
    middle = [turns for turns in conversations if turns[0]["role"] == "assistant"]
    assert 0.15 < len(middle) / len(conversations) < 0.3
    assert all(len(turns) >= 3 for turns in middle)
    assert sum(told_in(turns[0]["content"]) is not None for turns in middle) > 500
    assert sum("Your name is" in answer for turns in middle for answer in contents(turns[1:], "assistant")) > 500


def test_most_conversations_begin_without_a_greeting_and_names_are_told_at_any_place(
    conversations: list[Turns],
) -> None:
    greeted = sum("Nice to see you" in "".join(contents(turns[:2], "assistant")) for turns in conversations)
    assert 0.1 < greeted / len(conversations) < 0.4
    places = Counter(
        place
        for turns in conversations
        for place, answer in enumerate(contents(turns, "assistant"))
        if answer.startswith("Nice to meet you")
    )
    assert all(places[place] > 100 for place in range(6))


def test_users_type_proper_english_or_lower_case_and_answers_are_always_proper(
    exchanges: list[tuple[str, str]],
) -> None:
    worded = [question for question, _ in exchanges if question[0].isalpha()]
    assert 0.3 < sum(question == question.lower() for question in worded) / len(worded) < 0.5
    assert 0.15 < sum(question[-1].isalnum() for question in worded) / len(worded) < 0.4
    for _, answer in exchanges:
        assert answer[0].isupper() or answer[0].isdigit()
        assert answer[-1] in ".!"
        assert not PROPER.search(answer)


def test_every_sum_is_right_and_every_small_sum_is_taught(exchanges: list[tuple[str, str]]) -> None:
    taught = Counter()
    for question, answer in exchanges:
        asked = sum_asked(question)
        if asked is None:
            assert not COMPUTED.fullmatch(answer)
            continue
        a, sign, b = asked
        result = a + b if sign == "+" else a - b
        if max(a, b) > 9:
            assert answer == "I only know sums of small numbers."
        elif result < 0:
            assert answer == f"{a} - {b} is less than 0."
        else:
            assert answer == f"{a} {sign} {b} = {result}."
            taught[asked] += 1
    assert set(taught) == SMALL
    assert min(taught.values()) > 30


def test_what_an_answer_says_is_true_also_where_its_question_is_out_of_sight(conversations: list[Turns]) -> None:
    seen = 0
    for answer in (answer for turns in conversations for answer in contents(turns, "assistant")):
        if computed := COMPUTED.fullmatch(answer):
            a, sign, b, said = computed.groups()
            result = int(a) + int(b) if sign == "+" else int(a) - int(b)
            assert said == (f"= {result}" if result >= 0 else "is less than 0")
        elif day := re.fullmatch(r"(After|Before) (\w+day) comes (\w+)\.", answer):
            step = 1 if day[1] == "After" else -1
            assert day[3] == DAYS[(DAYS.index(day[2]) + step) % 7]
        elif number := re.fullmatch(r"After (\d+) comes (\d+)\.", answer):
            assert int(number[2]) == int(number[1]) + 1
        else:
            continue
        seen += 1
    assert seen > 10_000


def test_a_name_is_the_last_that_was_told_in_sight_or_not_told(conversations: list[Turns]) -> None:
    remembered, not_told, renamed = set(), 0, 0
    for turns in conversations:
        told = told_in(turns[0]["content"]) if turns[0]["role"] == "assistant" else None
        for asked, answered in pairwise(turns):
            if answered["role"] == "user":
                continue
            question, answer = asked["content"], answered["content"]
            if answer.startswith("Nice to meet you"):
                renamed += told is not None
                told = told_in(answer)
                assert told is not None
                assert re.search(rf"\b{told}\b", question, re.IGNORECASE)
            elif answer.startswith("Your name is"):
                assert told_in(answer) == told
                remembered.add(told)
            elif answer.startswith("You have not told"):
                assert told is None
                not_told += 1
    assert len(remembered) > 1000
    assert min(not_told, renamed) > 300


def test_a_first_question_has_one_answer_however_it_is_typed(conversations: list[Turns]) -> None:
    answers: dict[str, str] = {}
    for turns in conversations:
        if turns[0]["role"] == "user":
            asked, answered = turns[0]["content"], turns[1]["content"]
            key = re.sub(r"[,']", "", asked.lower().rstrip("?.!"))
            assert answers.setdefault(key, answered) == answered
