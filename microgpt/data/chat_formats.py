"""Formats of chat files: one conversation per line, or one JSON array of conversations.

A conversation has one of these forms:

    [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]          turns
    {"messages": [{"role": ..., "content": ...}, ...]}                                      OpenAI
    {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}     ShareGPT
    {"instruction": ..., "input": ..., "output": ...}                                       Alpaca

The result is always a list of messages with "role" and "content"; roles and contents are checked by conversations.py.
"""

import io
import json
from collections.abc import Iterator
from typing import Any

from microgpt.errors import UserError

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
EXPECTED = (
    'expected an array of messages like [{"role": "user", "content": "Hello"}], or an object with "messages" (OpenAI), '
    '"conversations" (ShareGPT) or "instruction" and "output" (Alpaca)'
)


def read_messages(text: str, origin: str) -> Iterator[tuple[str, object]]:
    """Yield the location (for error messages) and the list of messages of each conversation.

    Raises UserError for invalid JSON.
    """
    lines = [
        (number, line)
        for number, line in enumerate(io.StringIO(text.removeprefix("\ufeff"), newline=None), 1)
        if line.strip()
    ]
    # The first line of a JSON document that spans several lines is not valid JSON by itself.
    if len(lines) > 1 and lines[0][1].strip() in ("[", "{", "[{"):
        whole = parse_json(text.removeprefix("\ufeff"), origin)
        yield from conversations_of(whole, origin)
        return
    for number, line in lines:
        yield from conversations_of(parse_json(line, origin, number), f"{origin}: line {number}")


def conversations_of(value: object, where: str) -> Iterator[tuple[str, object]]:
    """Yield the conversations in a parsed line or file, which contains one conversation or an array of them."""
    if isinstance(value, list) and value and all(is_conversation(item) for item in value):
        for number, item in enumerate(value, 1):
            yield f"{where}: conversation {number}", messages_of(item, f"{where}: conversation {number}")
    else:
        yield where, messages_of(value, where)


def is_conversation(item: object) -> bool:
    return isinstance(item, list) or (isinstance(item, dict) and format_of(item) is not None)


def format_of(conversation: dict[str, Any]) -> str | None:
    """Return the key that identifies the format of an object, or None."""
    return next((key for key in ("messages", "conversations", "instruction") if key in conversation), None)


def messages_of(conversation: object, where: str) -> object:
    """Return the messages of a conversation in any of the formats. Raises UserError for an unknown format."""
    if isinstance(conversation, list):
        return conversation
    kind = format_of(conversation) if isinstance(conversation, dict) else None
    if not isinstance(conversation, dict) or kind is None:
        raise UserError(f"{where}: {EXPECTED}, found {json_type(conversation)}")
    if kind == "messages":
        return conversation["messages"]
    return from_sharegpt(conversation["conversations"], where) if kind == "conversations" else from_alpaca(conversation)


def from_sharegpt(turns: object, where: str) -> object:
    """Rename "from" and "value" to "role" and "content". Anything else is kept, and the message check reports it."""
    if not isinstance(turns, list):
        raise UserError(f'{where}: "conversations" must be an array of turns, found {json_type(turns)}')
    return [
        {"role": SHAREGPT_ROLES.get(str(turn["from"]), turn["from"]), "content": turn["value"]}
        if isinstance(turn, dict) and {"from", "value"} <= turn.keys()
        else turn
        for turn in turns
    ]


def from_alpaca(record: dict[str, Any]) -> object:
    """Return a user turn with the instruction (and the input, if any), and an assistant turn with the output."""
    question, given = record["instruction"], record.get("input")
    if isinstance(question, str) and isinstance(given, str) and given:
        question = f"{question}\n{given}"
    return [{"role": "user", "content": question}, {"role": "assistant", "content": record.get("output")}]


def parse_json(text: str, origin: str, line: int | None = None) -> object:
    """Parse a line, or a whole file if `line` is None. Raises a UserError that gives the line and column."""

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not a JSON value")

    place = "" if line is None else f" on line {line}"
    try:
        # Numbers occur only in ignored keys; float, because Python's int rejects numbers of thousands of digits.
        return json.loads(text, parse_constant=refuse, parse_int=float)
    except json.JSONDecodeError as error:
        place = f" on line {error.lineno if line is None else line}"
        reason = f"{error.msg} at column {error.colno}"
    except ValueError as error:  # raised by `refuse`
        reason = str(error)
    except RecursionError:
        reason = "nested too deeply"
    raise UserError(f"{origin}: invalid JSON{place}: {reason}")


def json_type(value: object) -> str:
    """Return the JSON name of a value's type."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds = {dict: "an object", list: "an array", str: "a string"}
    return kinds.get(type(value), "a number")
