"""The embedded chat set: what a tiny GPT is taught to say. Made anew whenever it is read, in a second.

    python scripts/build_chat.py > chat.jsonl     # writes it out, for people to read

Provenance: all sentences are the project's own (lesson_sentences.py); only people's names come from the public-domain
names.txt beside it. A seed decides everything, so a build gives the same bytes wherever it runs.

How such a set is made for a model of a million parameters that reads letters:
- users type proper English, or all in lower case, with the marks or without them; answers are proper English always, so
  that there is one right answer, and a name has its capital however it was typed;
- many wordings of a question, and one wording of its answer;
- an answer first repeats what it is about ("3 + 4 = 7.", "Snow is white."): to copy is easy to learn, and what is
  left to know then follows the same letters always, however the question was put;
- names are so many that few come twice: they cannot be learned, and must be looked up in the conversation;
- topics come in any order, from the first turn to the end of the block: a position, or a topic after another, that was
  never trained would say nothing sensible;
- a fifth of the conversations begins with an answer whose question is out of sight, as a prompt does whose oldest turns
  were left out; what is not in sight is not known: "You have not told me your name yet.";
- so many conversations that they cannot be learned by heart;
- a question that is not taught has an answer too: "I do not know that yet."
"""

import json
from collections.abc import Callable, Iterator
from random import Random

from microgpt.data import lesson_sentences as said
from microgpt.data import lesson_topics as topics
from microgpt.data.lesson_topics import Exchange, Topic

SEED = 5
LONGEST = 250  # tokens of a conversation; the chat models' block is 256

Conversation = tuple[Exchange, ...]  # of an exchange whose question is out of sight the question is ""


class Visit:
    """A conversation that grows. What it knows of the user is what stands in it."""

    def __init__(self, rng: Random, room: int):
        self.rng = rng
        self.room = room - 2  # for the tokens before and after the whole
        self.exchanges: list[Exchange] = []
        self.name: str | None = None
        self.topic: Topic | None = None  # of the last exchange

    def add(self, exchange: Exchange, topic: Topic | None = None, name: str | None = None) -> bool:
        """Whether there was room for it."""
        size = length(exchange)
        if size > self.room:
            return False
        self.room -= size
        self.exchanges.append(exchange)
        self.topic, self.name = topic, name or self.name
        return True

    def begin(self) -> None:
        """With a greeting, a name, or straight away."""
        chance = self.rng.random()
        if chance < 0.3:
            self.add(topics.talk(self.rng, said.GREETING))
        elif chance < 0.45:
            self.introduce()
        else:
            self.go_on()

    def begin_in_the_middle(self) -> None:
        """With an answer. A name that it tells is known from there on."""
        name = topics.somebody(self.rng)
        if self.rng.random() < 0.35:
            self.add(("", self.rng.choice([said.MET, said.REMEMBERED]).format(name)), name=name)
            return
        topic = self.rng.choices(topics.NAMED, topics.WEIGHTS)[0]
        self.add(("", topic(self.rng)[1]), topic)

    def introduce(self) -> bool:
        """For the first time, or anew: the later name counts."""
        name = topics.somebody(self.rng)
        anew = self.name is not None and self.rng.random() < 0.5
        wordings = said.CORRECTIONS if anew else said.INTRODUCTIONS
        return self.add(topics.introduction(self.rng, name, wordings), name=name)

    def go_on(self) -> bool:
        """With whatever comes; whether there was room for it."""
        chance, (introduced, asked) = self.rng.random(), (0.06, 0.18) if self.name else (0.13, 0.18)
        if chance < introduced:
            return self.introduce()
        if chance < asked:
            return self.ask_name()
        more = topics.MORE.get(self.topic) if self.topic else None
        if more and self.rng.random() < 0.25:
            return self.add(more(self.rng, self.exchanges[-1][1]), self.topic)
        topic = self.rng.choices(topics.NAMED, topics.WEIGHTS)[0]
        return self.add(topic(self.rng), topic)

    def ask_name(self) -> bool:
        return self.add(topics.name_question(self.rng, self.name))


def length(exchange: Exchange) -> int:
    """In tokens: letters, a role and an end for each turn."""
    return sum(2 + len(turn) for turn in exchange if turn)


def tokens(conversation: Conversation) -> int:
    """As the model reads it, with a token before and after the whole."""
    return 2 + sum(map(length, conversation))


def short_visit(rng: Random) -> Conversation:
    """One to three exchanges."""
    visit = Visit(rng, LONGEST)
    visit.begin()
    for _ in range(rng.randrange(3)):
        visit.go_on()
    return tuple(visit.exchanges)


def long_visit(rng: Random, from_the_middle: bool = False) -> Conversation:
    """As much as fits; one in three ends with the question for the name, another with thanks or a farewell."""
    end = rng.randrange(3)
    visit = Visit(rng, LONGEST - 60 if end < 2 else LONGEST)  # 60: room for the end
    (visit.begin_in_the_middle if from_the_middle else visit.begin)()
    misses = 0
    while misses < 3:
        misses += not visit.go_on()
    if end < 2:
        visit.room += 60
        visit.ask_name() if end == 0 else visit.add(topics.talk(rng, rng.choice([said.THANKS, said.GOODBYE])))
    return tuple(visit.exchanges)


def cut_visit(rng: Random) -> Conversation:
    return long_visit(rng, from_the_middle=True)


def name_story(rng: Random) -> Conversation:
    """A name is told, something may be between, and it is asked for."""
    visit = Visit(rng, LONGEST)
    visit.introduce()
    for _ in range(rng.choice([0, 0, 1])):
        visit.go_on()
    visit.ask_name()
    return tuple(visit.exchanges)


# The set

DRAWN: dict[str, tuple[int, Callable[[Random], Conversation]]] = {
    "names remembered": (1500, name_story),
    "short visits": (2000, short_visit),
    "long visits": (5500, long_visit),
    "from the middle": (2500, cut_visit),
}


def whole_topics(rng: Random) -> Iterator[tuple[str, Exchange]]:
    """What must not be left to chance: all small talk, every sum in some wordings, every word and fact."""
    for questions, (answer,) in said.SMALL_TALK:
        yield from (("small talk", (question, answer)) for question in questions)
    yield from (("names not told", (question, said.NOT_TOLD)) for question in said.WHO_AM_I)
    yield from (("facts", (question, answer)) for question, answer in said.FACTS.items())
    for numbers in topics.SMALL_SUMS:
        yield from (("small sums", topics.sum_of(rng, *numbers, [wording])) for wording in rng.sample(said.SUMS, 4))
    yield from (("sums below zero", topics.sum_of(rng, *numbers, said.SUMS)) for numbers in topics.BELOW_ZERO)


def build(seed: int = SEED) -> dict[Conversation, str]:
    """Every conversation and its kind. Raises RuntimeError where a kind has too few that are not there yet."""
    rng = Random(seed)
    kinds: dict[Conversation, str] = {(exchange,): kind for kind, exchange in whole_topics(rng)}
    for kind, (count, make) in DRAWN.items():
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


def chat_text() -> str:
    """The whole set as JSONL."""
    return "".join(map(as_line, build()))
