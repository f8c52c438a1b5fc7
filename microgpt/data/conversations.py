"""Read conversations from a chat file, encode them as training examples or as a prompt, and build a corpus of them.

A turn is encoded as [role] + characters + [end_turn], and a conversation as [BOS] + turns + [BOS].
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

from microgpt.data.chat_formats import json_type, read_messages
from microgpt.data.corpus import Corpus, Part, check_split, split
from microgpt.data.sources import Source
from microgpt.data.tokenizer import CHAT_SPECIAL, Tokenizer, count_targets, mask_target
from microgpt.errors import UserError

USER, ASSISTANT = ROLES = ("user", "assistant")
LOSS_ON = ("assistant", "all")
ANSWER_SHARE = 4  # 1/4 of the block is reserved for an answer
EMPTY_PART = Part(0, [], [])
MIN_PROMPT = 5  # tokens: BOS, user, one character, end_turn, assistant


@dataclass(frozen=True)
class Turn:
    role: str  # one of ROLES
    content: str

    @property
    def tokens(self) -> int:
        """Number of tokens: the characters, the role and end_turn."""
        return len(self.content) + 2

    @property
    def has_targets(self) -> bool:
        """Whether the turn is a non-empty answer."""
        return self.role == ASSISTANT and bool(self.content.strip())


Conversation = tuple[Turn, ...]


@dataclass(frozen=True)
class Conversations:
    """The usable conversations of a file, each ending with an answer, and counts of what was left out."""

    conversations: list[Conversation]
    skipped: int  # conversations without an answer: no assistant turn with text
    trimmed: int  # conversations whose turns after the last answer were dropped
    system_turns: int  # turns with the role system, which were dropped


def parse_conversations(text: str, origin: str) -> Conversations:
    """Parse a chat file in one of the formats of chat_formats.py.

    Contents are kept unchanged, including white space and empty contents. Roles need not alternate, and the assistant
    may begin. Other keys are ignored; system turns are dropped and counted. Any kind of line ending and a byte order
    mark are accepted. Raises UserError with `origin` and the line for anything else, and if no conversation has an
    answer.
    """
    found: list[Conversation] = []
    skipped = trimmed = system_turns = 0
    for where, messages in read_messages(text, origin):
        if isinstance(messages, list):
            system = [isinstance(one, dict) and one.get("role") == "system" for one in messages]
            messages = [one for one, is_system in zip(messages, system, strict=True) if not is_system]
            system_turns += sum(system)
        whole = turns_of(messages, where)
        conversation = without_trailing_turns(whole)
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
    return Conversations(found, skipped, trimmed, system_turns)


def turns_of(messages: object, where: str) -> Conversation:
    """Return the turns of parsed JSON messages. Raises UserError, prefixed with `where`, if they are invalid."""
    if not isinstance(messages, list):
        raise UserError(
            f'{where}: expected an array of messages like [{{"role": "user", "content": "Hello"}}], '
            f"found {json_type(messages)}"
        )
    return tuple(turn_of(message, number, where) for number, message in enumerate(messages, 1))


def turn_of(message: object, number: int, where: str) -> Turn:
    if not isinstance(message, dict):
        raise UserError(
            f'{where}: message {number} must be an object with "role" and "content", found {json_type(message)}'
        )
    for key in ("role", "content"):
        if key not in message:
            raise UserError(f'{where}: message {number} has no "{key}"')
        if not isinstance(message[key], str):
            raise UserError(f'{where}: "{key}" of message {number} must be a string, found {json_type(message[key])}')
    role, content = message["role"], message["content"]
    if role not in ROLES:
        shown = json.dumps(role[:40])  # escapes non-ASCII characters
        raise UserError(f'{where}: unknown role {shown} (expected "user" or "assistant")')
    try:
        content.encode()
    except UnicodeEncodeError as error:  # JSON can express half a surrogate pair, which UTF-8 cannot encode
        raise UserError(
            f'{where}: "content" of message {number} has half a surrogate pair, \\u{ord(content[error.start]):04x}, '
            f"which is not a character"
        ) from None
    return Turn(role, content)


def without_trailing_turns(turns: Conversation) -> Conversation:
    """Return the turns up to the last answer, or an empty tuple if there is no answer."""
    last = max((i for i, turn in enumerate(turns) if turn.has_targets), default=-1)
    return turns[: last + 1]


def is_long_conversation(conversation: Conversation, block_size: int) -> bool:
    """Return whether the conversation has to be cut to fit block_size."""
    return sum(turn.tokens for turn in conversation) > block_size


def encode_conversation(
    conversation: Conversation, tokenizer: Tokenizer, block_size: int, loss_on: str = "assistant"
) -> list[int] | None:
    """Return an example of at most block_size + 1 tokens, or None if it has no target.

    loss_on="assistant": the targets are the characters and the end_turn of answers; all other tokens are masked.
    loss_on="all": every token is a target. Turns after the last answer are dropped.

    If a conversation is too long, whole turns are dropped first, from the oldest up to the question of the last answer;
    then the beginning of that question, as in a prompt; then the end of the answer. The closing BOS is dropped if it
    does not fit.
    """
    turns = without_trailing_turns(conversation)
    if not turns:
        return None
    all_targets = loss_on == "all"
    pieces = [encode_turn(turn, tokenizer, all_targets) for turn in turns]
    question = max((i for i, turn in enumerate(turns) if turn.role == USER), default=None)
    # Without a question, only the answer (the last turn) is kept, from its beginning.
    keep_from = len(turns) - 1 if question is None else question
    # The question keeps as many characters as in a prompt, which also holds BOS, two role tokens and end_turn.
    min_characters = max(1, prompt_room(block_size) - MIN_PROMPT + 1)
    kept = drop_oldest_turns(pieces, block_size, keep_from, min_characters if question is not None else None)
    # With loss_on="assistant" the closing BOS is masked: generation stops at end_turn.
    closing = tokenizer.bos if all_targets else mask_target(tokenizer.bos)
    example = [tokenizer.bos, *chain.from_iterable(kept), closing][: block_size + 1]
    return example if count_targets(example) else None


def encode_turn(turn: Turn, tokenizer: Tokenizer, all_targets: bool) -> list[int]:
    """Return [role] + characters + [end_turn]. The role is masked even in an answer, because prompts contain it."""
    role, end = tokenizer.special_ids[turn.role], tokenizer.special_ids["end_turn"]
    tokens = [*tokenizer.encode(turn.content, turn.role), end]
    if all_targets:
        return [role, *tokens]
    return [mask_target(role), *(tokens if turn.has_targets else map(mask_target, tokens))]


def encode_prompt_turns(turns: Sequence[Turn], tokenizer: Tokenizer, block_size: int) -> tuple[list[int], int]:
    """Return the prompt [BOS] + turns + [assistant], and the number of tokens dropped to make it fit.

    A quarter of the block is reserved for the answer. Whole turns are dropped first, from the oldest on, then the
    beginning of the last turn, of which at least one character is kept. Raises UserError if the block is too small for
    any prompt, if the last turn is empty or not the user's, and for unknown characters.
    """
    room = prompt_room(block_size)
    if room < MIN_PROMPT:
        raise UserError(
            f"model.block_size={block_size} is too small for a chat: it leaves {room} tokens for the prompt, but the "
            f"shortest prompt takes {MIN_PROMPT}"
        )
    if not turns or turns[-1].role != USER:
        raise UserError('the last message must have the role "user": there is nothing to answer')
    if not turns[-1].content:
        raise UserError("the last message is empty: there is nothing to answer")
    pieces = [encode_turn(turn, tokenizer, all_targets=True) for turn in turns]
    kept = drop_oldest_turns(pieces, room - 2, len(turns) - 1, min_characters=1)
    prompt = [tokenizer.bos, *chain.from_iterable(kept), tokenizer.special_ids[ASSISTANT]]
    return prompt, sum(map(len, pieces)) - sum(map(len, kept))


def prompt_room(block_size: int) -> int:
    """Return the maximum number of tokens of a prompt."""
    return block_size - block_size // ANSWER_SHARE


def drop_oldest_turns(
    pieces: list[list[int]], room: int, keep_from: int, min_characters: int | None
) -> list[list[int]]:
    """Drop the oldest encoded turns until at most `room` tokens are left; keep the turns from index `keep_from` on.

    If that is not enough, also drop the beginning of the first remaining turn's text, except its last `min_characters`
    (None: keep the whole text).
    """
    excess = sum(map(len, pieces)) - room
    start = 0
    while excess > 0 and start < keep_from:
        excess -= len(pieces[start])
        start += 1
    role, *tokens = pieces[start]  # tokens: characters and end_turn
    if excess > 0 and min_characters is not None:
        tokens = tokens[max(0, min(excess, len(tokens) - 1 - min_characters)) :]
    return [[role, *tokens], *pieces[start + 1 :]]


def build_chat_corpus(source: Source, *, val_fraction: float, split_seed: int, block_size: int, loss_on: str) -> Corpus:
    """Parse, split by distinct conversation, and encode. Raises UserError for invalid or insufficient data."""
    found = parse_conversations(source.text, source.origin)
    tokenizer = Tokenizer.of((turn.content for each in found.conversations for turn in each), CHAT_SPECIAL)
    train, val = split(found.conversations, val_fraction, split_seed)
    check_split(source.origin, found.conversations, train, val, val_fraction, "conversation")

    def part(conversations: Sequence[Conversation]) -> Part:
        encoded = [encode_conversation(each, tokenizer, block_size, loss_on) for each in conversations]
        kept = [[] if example is None else [example] for example in encoded]
        return Part(len(conversations), [example for one in kept for example in one], list(accumulate(map(len, kept))))

    truncated = sum(is_long_conversation(each, block_size) for each in found.conversations)
    counts = {"skipped": found.skipped, "trimmed": found.trimmed, "truncated": truncated}
    counts["system_turns"] = found.system_turns
    return Corpus(
        source=source,
        tokenizer=tokenizer,
        documents=len(found.conversations),
        train=part(train),
        val=part(val),
        style_train=EMPTY_PART,
        style_val=EMPTY_PART,
        long_documents=truncated,
        conversations=counts,
        questions=tuple(dict.fromkeys(each[0].content for each in val or train if each[0].role == USER)),
    )
