"""Conversations: read from JSONL, as examples to train on, as a prompt to answer. Knows nothing of models and files.

In tokens a turn is [role] + its characters + [end_turn], a conversation [BOS] + its turns + [BOS].
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from microgpt.data.tokenizer import Tokenizer, targets_of, unasked
from microgpt.errors import UserError

USER, ASSISTANT = ROLES = ("user", "assistant")
LOSS_ON = ("assistant", "all")
ANSWER_SHARE = 4  # 1/4 of the block is kept free for an answer
LEAST_PROMPT = 5  # tokens: BOS, user, one character, end_turn, assistant


@dataclass(frozen=True)
class Turn:
    role: str  # of ROLES
    content: str

    @property
    def tokens(self) -> int:
        """How many tokens it takes: its characters, its role and its end."""
        return len(self.content) + 2

    @property
    def teaches(self) -> bool:
        """Whether an answer can be learned from it: silence is not to be learned."""
        return self.role == ASSISTANT and bool(self.content.strip())


Conversation = tuple[Turn, ...]


@dataclass(frozen=True)
class Conversations:
    """The conversations of a file that one can learn from, each ending with an answer, and what was left out."""

    conversations: list[Conversation]
    skipped: int  # conversations without an answer: no assistant turn with text
    trimmed: int  # conversations of which turns after the last answer were left out


def parse_conversations(text: str, origin: str) -> Conversations:
    """Read JSONL: each line that is not blank is one conversation, an array of {"role": ..., "content": ...}.

    Contents are kept as they are, blanks at their ends and empty ones included; roles need not alternate, and the
    assistant may begin; other keys of a message are passed over. All kinds of line ends and a byte order mark are
    understood. Raises UserError, naming `origin` and the line, for anything else, and where nothing can be learned.
    """
    found: list[Conversation] = []
    skipped = trimmed = 0
    for number, line in enumerate(io.StringIO(text.removeprefix("\ufeff"), newline=None), 1):
        if not line.strip():
            continue
        whole = turns_of(parse_line(line, number, origin), f"{origin}: line {number}")
        conversation = up_to_last_answer(whole)
        if not conversation:
            skipped += 1
            continue
        found.append(conversation)
        trimmed += len(conversation) < len(whole)
    if not found and not skipped:
        raise UserError(f"{origin} is empty: a chat data set needs at least one line with a conversation")
    if not found:
        raise UserError(
            f"{origin} has nothing to learn from: no assistant turn with text in its {skipped} "
            f"conversation{'s' * (skipped != 1)}"
        )
    return Conversations(found, skipped, trimmed)


def parse_line(line: str, number: int, origin: str) -> object:
    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not a JSON value")

    try:
        # Numbers only stand in keys that are passed over: as floats, as whole ones of thousands of digits are an error.
        return json.loads(line, parse_constant=refuse, parse_int=float)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at column {error.colno}"
    except ValueError as error:  # of `refuse`
        reason = str(error)
    except RecursionError:
        reason = "nested too deeply"
    raise UserError(f"{origin}: invalid JSON on line {number}: {reason}")


def turns_of(messages: object, where: str) -> Conversation:
    """The turns of messages as JSON has them. Raises UserError beginning with `where` for what is no conversation."""
    if not isinstance(messages, list):
        raise UserError(
            f'{where}: expected an array of messages like [{{"role": "user", "content": "Hello"}}], '
            f"found {kind_of(messages)}"
        )
    return tuple(turn_of(message, number, where) for number, message in enumerate(messages, 1))


def turn_of(message: object, number: int, where: str) -> Turn:
    if not isinstance(message, dict):
        raise UserError(
            f'{where}: message {number} must be an object with "role" and "content", found {kind_of(message)}'
        )
    for key in ("role", "content"):
        if key not in message:
            raise UserError(f'{where}: message {number} has no "{key}"')
        if not isinstance(message[key], str):
            raise UserError(f'{where}: "{key}" of message {number} must be a string, found {kind_of(message[key])}')
    role, content = message["role"], message["content"]
    if role not in ROLES:
        shown = json.dumps(role[:40])  # ASCII, whatever it is
        raise UserError(f'{where}: unknown role {shown} (expected "user" or "assistant")')
    try:
        content.encode()
    except UnicodeEncodeError as error:  # JSON can write half a surrogate pair, which no file and no page can hold
        raise UserError(
            f'{where}: "content" of message {number} has half a surrogate pair, \\u{ord(content[error.start]):04x}, '
            f"which is not a character"
        ) from None
    return Turn(role, content)


def kind_of(value: object) -> str:
    """What JSON calls a value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds = {dict: "an object", list: "an array", str: "a string"}
    return kinds.get(type(value), "a number")


def up_to_last_answer(turns: Conversation) -> Conversation:
    """Without the turns after the last answer, from which nothing is learned; empty if there is no answer."""
    last = max((i for i, turn in enumerate(turns) if turn.teaches), default=-1)
    return turns[: last + 1]


def is_long_conversation(conversation: Conversation, block_size: int) -> bool:
    """Whether its example leaves out some of its turns or of their text."""
    return sum(turn.tokens for turn in conversation) > block_size


def encode_conversation(
    conversation: Conversation, tokenizer: Tokenizer, block_size: int, loss_on: str = "assistant"
) -> list[int] | None:
    """An example of at most block_size + 1 tokens; None if it would ask for nothing.

    loss_on="assistant" asks for answers, their characters and their end_turn; the rest is read only (examples.py).
    loss_on="all" asks for every token. Turns after the last answer are left out.

    Of a conversation that is too long, whole oldest turns are left out, up to the question of the last answer; then
    the head of that question, as far as a prompt would lose it too; then the end of the answer, so that it begins
    right. The closing BOS is there if there is room for it.
    """
    turns = up_to_last_answer(conversation)
    if not turns:
        return None
    asked_for_all = loss_on == "all"
    pieces = [encode_turn(turn, tokenizer, asked_for_all) for turn in turns]
    question = max((i for i, turn in enumerate(turns) if turn.role == USER), default=None)
    # An answer that nobody asked for has no head to cut: it is the last turn.
    keep_from = len(turns) - 1 if question is None else question
    # A question keeps what it would keep as a prompt, beside BOS, its role and its end, and the answer's role.
    least = max(1, prompt_room(block_size) - LEAST_PROMPT + 1)
    kept = fitting(pieces, block_size, keep_from, least if question is not None else None)
    # "assistant" does not ask for the closing BOS: generation stops at end_turn, and nobody asks what comes after it.
    closing = tokenizer.bos if asked_for_all else unasked(tokenizer.bos)
    example = [tokenizer.bos, *chain.from_iterable(kept), closing][: block_size + 1]
    return example if targets_of(example) else None


def encode_turn(turn: Turn, tokenizer: Tokenizer, asked_for_all: bool) -> list[int]:
    """[role] + characters + [end_turn], asked for or not. The role of an answer is given by the prompt."""
    role, end = tokenizer.special_ids[turn.role], tokenizer.special_ids["end_turn"]
    said = [*tokenizer.encode(turn.content, turn.role), end]
    if asked_for_all:
        return [role, *said]
    return [unasked(role), *(said if turn.teaches else map(unasked, said))]


def encode_prompt_turns(turns: Sequence[Turn], tokenizer: Tokenizer, block_size: int) -> tuple[list[int], int]:
    """The prompt [BOS] + turns + [assistant], and how many tokens were left out of it so that it fits.

    A quarter of the block stays free for the answer. Of what does not fit, whole oldest turns are left out, then the
    head of the last turn, the user's, of which one character stays. Raises UserError for a block that is too small
    for any prompt, for turns of which the user has not the last word, and for characters that the model does not know.
    """
    room = prompt_room(block_size)
    if room < LEAST_PROMPT:
        raise UserError(
            f"model.block_size={block_size} is too small for a chat: it leaves {room} tokens for the prompt, and the "
            f"shortest takes {LEAST_PROMPT}"
        )
    if not turns or turns[-1].role != USER:
        raise UserError('the last message must have the role "user": there is nothing to answer')
    if not turns[-1].content:
        raise UserError("the last message is empty: there is nothing to answer")
    pieces = [encode_turn(turn, tokenizer, asked_for_all=True) for turn in turns]
    kept = fitting(pieces, room - 2, len(turns) - 1, least=1)
    prompt = [tokenizer.bos, *chain.from_iterable(kept), tokenizer.special_ids[ASSISTANT]]
    return prompt, sum(map(len, pieces)) - sum(map(len, kept))


def prompt_room(block_size: int) -> int:
    """How many tokens a prompt may have: the rest of the block is for the answer."""
    return block_size - block_size // ANSWER_SHARE


def fitting(pieces: list[list[int]], room: int, keep_from: int, least: int | None) -> list[list[int]]:
    """Encoded turns without the oldest, as many as it takes to have at most `room` tokens; `keep_from` and later stay.

    If they still have more, then also without the head of the first turn's text, of which at least the last `least`
    characters stay; None: all of it stays.
    """
    excess = sum(map(len, pieces)) - room
    start = 0
    while excess > 0 and start < keep_from:
        excess -= len(pieces[start])
        start += 1
    role, *said = pieces[start]
    if excess > 0 and least is not None:  # said: characters and end_turn
        said = said[max(0, min(excess, len(said) - 1 - least)) :]
    return [[role, *said], *pieces[start + 1 :]]
