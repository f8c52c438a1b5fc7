"""The embedded chat set: what a tiny GPT is taught to say. Made anew whenever it is read, in a second.

    python scripts/build_chat.py > chat.jsonl     # writes it out, for people to read

Provenance: all sentences are the project's own (lesson_sentences.py); only people's names come from the public-domain
names.txt beside it. A seed decides everything, so a build gives the same bytes wherever it runs.

How such a set is made for a model of a million parameters that reads letters:
- few letters, so that each is met often: small ones, digits, the space and a few marks;
- many wordings of a question, and one wording of its answer;
- an answer first repeats what it is about ("3 + 4 = 7.", "snow is white."): to copy is easy to learn, and what is
  left to know then follows the same letters always, however the question was put;
- names are so many that few come twice: they cannot be learned, and must be looked up in the conversation;
- many conversations nearly fill the block, since a position that was never trained says nothing sensible;
- so many conversations that they cannot be learned by heart;
- a question that is not taught has an answer too: "i do not know that yet."
"""

import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from random import Random

from microgpt.data import lesson_sentences as said

SEED = 5
LONGEST = 240  # tokens of a conversation; the chat models' block is 256

Exchange = tuple[str, str]  # what the user says, what the assistant answers
Conversation = tuple[Exchange, ...]
Topic = Callable[[Random], Exchange]
Kind = Callable[[Random], Conversation]

PAIRS = [(a, b) for a in range(10) for b in range(10)]
SMALL_SUMS = [(a, "+", b) for a, b in PAIRS] + [(a, "-", b) for a, b in PAIRS if a >= b]
BELOW_ZERO = [(a, "-", b) for a, b in PAIRS if a < b]


# Topics: each makes one exchange


def loosely(rng: Random, sentence: str) -> str:
    """As people type it: one sentence in four without the mark at its end."""
    return sentence.rstrip("?.") if rng.random() < 0.25 else sentence


def talk(rng: Random, row: tuple[list[str], list[str]]) -> Exchange:
    questions, (answer,) = row
    return loosely(rng, rng.choice(questions)), answer


def small_talk(rng: Random) -> Exchange:
    return talk(rng, rng.choice(said.SMALL_TALK))


def sum_of(a: int, sign: str, b: int, wording: str) -> Exchange:
    """A sum in the user's wording, its answer always in the same. To what lies beyond small numbers it says so."""
    word = {"+": "plus", "-": "minus"}[sign]
    aa, bb = (said.DIGITS[n] if n < len(said.DIGITS) else str(n) for n in (a, b))
    question = wording.format(a=a, b=b, sign=sign, word=word, aa=aa, bb=bb)
    if max(a, b) > 9:
        return question, "i only know sums of small numbers."
    if sign == "-" and b > a:
        return question, f"{a} - {b} is less than 0."
    return question, f"{a} {sign} {b} = {a + b if sign == '+' else a - b}."


def small_sum(rng: Random, wordings: list[str] = said.SUMS) -> Exchange:
    return sum_of(*rng.choice(SMALL_SUMS), rng.choice(wordings))


def large_sum(rng: Random) -> Exchange:
    numbers = [rng.randrange(10, 100), rng.randrange(2, 100)]
    rng.shuffle(numbers)
    return sum_of(numbers[0], rng.choice("+-"), numbers[1], rng.choice(said.SUMS))


def colour(rng: Random) -> Exchange:
    thing = rng.choice(list(said.COLOURS))
    told = f"{thing} is {said.COLOURS[thing]}."
    if rng.random() < 0.7:
        return loosely(rng, rng.choice(said.COLOUR_QUESTIONS).format(thing)), told
    guess = rng.choice([said.COLOURS[thing], rng.choice(list(said.COLOURS.values()))])
    return loosely(rng, f"is {thing} {guess}?"), f"{'yes' if guess == said.COLOURS[thing] else 'no'}, {told}"


def opposite(rng: Random) -> Exchange:
    word = rng.choice(list(said.OPPOSITES))
    question = rng.choice(said.OPPOSITE_QUESTIONS).format(word)
    return loosely(rng, question), f"the opposite of {word} is {said.OPPOSITES[word]}."


def neighbour(rng: Random) -> Exchange:
    """The day or the month before or after another."""
    kind, names = rng.choice([("day", said.DAYS), ("month", said.MONTHS)])
    place = rng.randrange(len(names))
    side, step = rng.choice([("after", 1), ("after", 1), ("before", -1)])
    asked = rng.choice([f"what {kind} comes {side} {{}}?", f"which {kind} is {side} {{}}?", f"what comes {side} {{}}?"])
    answer = f"{side} {names[place]} comes {names[(place + step) % len(names)]}."
    return loosely(rng, asked.format(names[place])), answer


def counting(rng: Random) -> Exchange:
    if rng.random() < 0.5:
        n = rng.randrange(20)
        asked = rng.choice(["what comes after {}?", "what number comes after {}?", "which number is after {}?"])
        return loosely(rng, asked.format(n)), f"after {n} comes {n + 1}."
    n = rng.randrange(2, 11)
    asked = rng.choice(["count to {}.", "can you count to {}?", "please count to {}.", "count down from {}."])
    numbers = range(n, 0, -1) if "down" in asked else range(1, n + 1)
    return loosely(rng, asked.format(n)), ", ".join(map(str, numbers)) + "."


def fact(rng: Random) -> Exchange:
    question = rng.choice(list(said.FACTS))
    return loosely(rng, rng.choice(["", "", "tell me, ", "please, "]) + question), said.FACTS[question]


def unknown(rng: Random) -> Exchange:
    return loosely(rng, rng.choice(said.UNKNOWN)), said.I_DO_NOT_KNOW


def introduction(rng: Random, name: str) -> Exchange:
    return loosely(rng, rng.choice(said.INTRODUCTIONS).format(name)), f"nice to meet you, {name}."


def reminder(rng: Random, name: str) -> Exchange:
    return loosely(rng, rng.choice(said.NOBODY[0])), f"your name is {name}."


def people() -> list[str]:
    """Short names: 600 from the head of the names file, given to girls above all, and 300 given to boys only."""
    names = (files("microgpt.data") / "names.txt").read_text().split()
    boys = names.index("christopher")  # the first that is not among the girls'
    short = [[name for name in part if 3 <= len(name) <= 6] for part in (names[:boys], names[boys:])]
    return short[0][:600] + short[1][:300]


PEOPLE = people()
KNOWLEDGE: list[Topic] = [colour, opposite, neighbour, counting, fact]
ANYTHING: list[Topic] = [small_sum, small_sum, *KNOWLEDGE, unknown]


# Conversations of several turns


def name_story(rng: Random) -> Conversation:
    """A name is told and asked for, now and then with something else between."""
    name = rng.choice(PEOPLE)
    between = [rng.choice([small_sum, *KNOWLEDGE])(rng)] if rng.random() < 0.35 else []
    return (introduction(rng, name), *between, reminder(rng, name))


def follow_up(rng: Random) -> Conversation:
    """A second question that is whole only with the first."""
    kind = rng.choice([small_sum, small_sum, small_sum, colour, opposite, neighbour])
    if kind is small_sum:
        return small_sum(rng), small_sum(rng, said.MORE_SUMS)
    if kind is colour:
        first = colour(rng)
        thing = rng.choice([thing for thing in said.COLOURS if thing not in first[0]])
        return first, (loosely(rng, f"and {thing}?"), f"{thing} is {said.COLOURS[thing]}.")
    if kind is opposite:
        first = opposite(rng)
        word = rng.choice([word for word in said.OPPOSITES if word not in first[1]])
        return first, (loosely(rng, f"and of {word}?"), f"the opposite of {word} is {said.OPPOSITES[word]}.")
    at = rng.randrange(len(said.DAYS))
    today, second, third = (said.DAYS[(at + step) % len(said.DAYS)] for step in range(3))
    question = loosely(rng, f"what comes after {today}?")
    return (question, f"after {today} comes {second}."), ("and after that?", f"after {second} comes {third}.")


def short_visit(rng: Random) -> Conversation:
    """A greeting and a question, or a question and a farewell."""
    question = rng.choice([small_talk, small_sum, *ANYTHING])(rng)
    if rng.random() < 0.5:
        return talk(rng, said.GREETING), question
    return question, talk(rng, rng.choice([said.THANKS, said.GOODBYE]))


def nobody(rng: Random) -> Conversation:
    """Something, and then a name is asked for that was never told."""
    return rng.choice(ANYTHING)(rng), talk(rng, said.NOBODY)


def long_visit(rng: Random) -> Conversation:
    """From hello to goodbye, as much as fits."""
    name = rng.choice(PEOPLE)
    visit, end = [talk(rng, said.GREETING), introduction(rng, name)], (reminder(rng, name), talk(rng, said.GOODBYE))
    for _ in range(40):  # tries
        exchange = rng.choice(ANYTHING)(rng)
        if tokens((*visit, exchange, *end)) <= LONGEST:
            visit.append(exchange)
    return (*visit, *end)


def tokens(conversation: Conversation) -> int:
    """As the model reads it: letters, a role and an end for each turn, and a token before and after the whole."""
    return 2 + sum(2 + len(turn) for exchange in conversation for turn in exchange)


# The set


def single(topic: Topic) -> Kind:
    return lambda rng: (topic(rng),)


DRAWN: dict[str, tuple[int, Kind]] = {
    "introductions": (150, lambda rng: (introduction(rng, rng.choice(PEOPLE)),)),
    "colours": (200, single(colour)),
    "opposites": (150, single(opposite)),
    "days and months": (200, single(neighbour)),
    "counting": (80, single(counting)),
    "facts": (100, single(fact)),
    "unknown": (120, single(unknown)),
    "large sums": (60, single(large_sum)),
    "names remembered": (1500, name_story),
    "follow-ups": (800, follow_up),
    "names not told": (40, nobody),
    "short visits": (1500, short_visit),
    "long visits": (2500, long_visit),
}


def whole_topics(rng: Random) -> Iterator[tuple[str, Exchange]]:
    """What must not be left to chance: all small talk, every small sum in twelve wordings, others in three."""
    for questions, (answer,) in said.SMALL_TALK:
        yield from (("small talk", (question, answer)) for question in questions)
    for small in SMALL_SUMS:
        yield from (("small sums", sum_of(*small, wording)) for wording in rng.sample(said.SUMS, 12))
    for below in BELOW_ZERO:
        yield from (("sums below zero", sum_of(*below, wording)) for wording in rng.sample(said.SUMS, 3))


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
    ]
    return json.dumps(turns, separators=(",", ":")) + "\n"


def chat_text() -> str:
    """The whole set as JSONL."""
    return "".join(map(as_line, build()))
