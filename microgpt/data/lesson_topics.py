"""What a tiny GPT is taught, one exchange at a time: what a user asks, as people type it, and the answer.

Knows nothing of conversations: lessons.py joins exchanges. `rng` decides everything.
"""

from collections.abc import Callable
from importlib.resources import files
from random import Random

from microgpt.data import lesson_sentences as said

Exchange = tuple[str, str]  # what the user says, and what the assistant answers
Topic = Callable[[Random], Exchange]

PAIRS = [(a, b) for a in range(10) for b in range(10)]
SMALL_SUMS = [(a, "+", b) for a, b in PAIRS] + [(a, "-", b) for a, b in PAIRS if a >= b]
BELOW_ZERO = [(a, "-", b) for a, b in PAIRS if a < b]
ADDING = [*said.SUMS, *said.ADD_ONLY]


# How people type


def typed(rng: Random, sentence: str) -> str:
    """Half of the sentences as they stand, the others in lower case; of both some without commas or the last mark."""
    case, marks = rng.random(), rng.random()
    if case < 0.4:
        sentence = sentence.lower()
    elif case < 0.5:
        sentence = sentence[0] + sentence[1:].lower()
    if marks < 0.25:
        sentence = sentence.rstrip("?.! ") or sentence
    if marks < 0.08:
        sentence = sentence.replace(",", "").replace("'", "")
    return sentence


def capital(text: str) -> str:
    """With a capital letter at its beginning."""
    return text[0].upper() + text[1:]


# Topics: each makes one exchange


def small_talk(rng: Random) -> Exchange:
    return talk(rng, rng.choice(said.SMALL_TALK))


def talk(rng: Random, row: tuple[list[str], list[str]]) -> Exchange:
    questions, (answer,) = row
    return typed(rng, rng.choice(questions)), answer


def sum_of(rng: Random, a: int, sign: str, b: int, wordings: list[str]) -> Exchange:
    """A sum in one of the wordings, its answer always in the same. To what lies beyond small numbers it says so."""
    word = {"+": "plus", "-": "minus"}[sign]
    aa, bb = (said.DIGITS[n] if n < len(said.DIGITS) else str(n) for n in (a, b))
    question = typed(rng, capital(rng.choice(wordings).format(a=a, b=b, sign=sign, word=word, aa=aa, bb=bb)))
    if max(a, b) > 9:
        return question, said.TOO_LARGE
    if sign == "-" and b > a:
        return question, f"{a} - {b} is less than 0."
    return question, f"{a} {sign} {b} = {a + b if sign == '+' else a - b}."


def small_sum(rng: Random) -> Exchange:
    a, sign, b = rng.choice(SMALL_SUMS)
    return sum_of(rng, a, sign, b, ADDING if sign == "+" else said.SUMS)


def below_zero(rng: Random) -> Exchange:
    return sum_of(rng, *rng.choice(BELOW_ZERO), said.SUMS)


def large_sum(rng: Random) -> Exchange:
    if rng.random() < 0.4:
        a, b = rng.randrange(13), rng.randrange(13)
        return typed(rng, rng.choice(said.TIMES).format(a, b)), said.NO_TIMES
    numbers = [rng.randrange(10, rng.choice([20, 100, 1000])), rng.randrange(rng.choice([10, 100]))]
    rng.shuffle(numbers)
    return sum_of(rng, numbers[0], rng.choice("+-"), numbers[1], said.SUMS)


def colour(rng: Random) -> Exchange:
    thing = rng.choice(list(said.COLOURS))
    told = f"{thing} is {said.COLOURS[thing]}."
    if rng.random() < 0.75:
        return typed(rng, rng.choice(said.COLOUR_QUESTIONS).format(thing)), capital(told)
    guess = rng.choice([said.COLOURS[thing], rng.choice(list(said.COLOURS.values()))])
    return typed(rng, f"Is {thing} {guess}?"), f"{'Yes' if guess == said.COLOURS[thing] else 'No'}, {told}"


def opposite(rng: Random, wordings: list[str] = said.OPPOSITE_QUESTIONS) -> Exchange:
    word = rng.choice(list(said.OPPOSITES))
    return typed(rng, rng.choice(wordings).format(word)), f"The opposite of {word} is {said.OPPOSITES[word]}."


ROUNDS = [("day", said.DAYS), ("month", said.MONTHS)]
NEIGHBOURS = {  # what comes after what, or before it: days and months go round
    (side, names[i]): names[(i + step) % len(names)]
    for _, names in ROUNDS
    for side, step in (("After", 1), ("Before", -1))
    for i in range(len(names))
} | {("After", str(n)): str(n + 1) for n in range(20)}


def neighbour(rng: Random) -> Exchange:
    """The day or the month before or after another."""
    kind, names = rng.choice(ROUNDS)
    name, side = rng.choice(names), rng.choice(["after", "after", "before"])
    asked = [f"What {kind} comes {side} {name}?", f"Which {kind} is {side} {name}?", f"What comes {side} {name}?"]
    return typed(rng, rng.choice(asked)), comes(capital(side), name)


def comes(side: str, name: str) -> str:
    return f"{side} {name} comes {NEIGHBOURS[side, name]}."


def counting(rng: Random) -> Exchange:
    if rng.random() < 0.5:
        n = rng.randrange(20)
        asked = [f"What comes after {n}?", f"What number comes after {n}?", f"Which number is after {n}?"]
        return typed(rng, rng.choice(asked)), comes("After", str(n))
    n = rng.randrange(2, 11)
    asked = rng.choice(["Count to {}.", "Can you count to {}?", "Please count to {}."]).format(n)
    return typed(rng, asked), ", ".join(map(str, range(1, n + 1))) + "."


def echo(rng: Random) -> Exchange:
    """Words to be repeated: above all they teach to copy."""
    words = [
        somebody(rng) if rng.random() < 0.7 else rng.choice(list(said.OPPOSITES))
        for _ in range(rng.choice([1, 1, 2, 3]))
    ]
    text = " ".join(words).lower()
    return typed(rng, rng.choice(said.ECHOES).format(text)), capital(text) + "."


def fact(rng: Random) -> Exchange:
    question = rng.choice(list(said.FACTS))
    return typed(rng, question), said.FACTS[question]


def unknown(rng: Random) -> Exchange:
    return typed(rng, rng.choice(said.UNKNOWN)), said.I_DO_NOT_KNOW


# Follow-ups: questions that are whole only with the answer before them


def another_sum(rng: Random, _: str) -> Exchange:
    return sum_of(rng, *rng.choice(SMALL_SUMS), said.MORE_SUMS)


def another_colour(rng: Random, _: str) -> Exchange:
    thing = rng.choice(list(said.COLOURS))
    return typed(rng, rng.choice(said.MORE_COLOURS).format(thing)), capital(f"{thing} is {said.COLOURS[thing]}.")


def another_opposite(rng: Random, _: str) -> Exchange:
    return opposite(rng, said.MORE_OPPOSITES)


def next_neighbour(rng: Random, answer: str) -> Exchange:
    """What comes after what has just been named."""
    side, *_, name = answer.rstrip(".").split()
    if (side, name) not in NEIGHBOURS:  # numbers, counted or at their end
        return counting(rng)
    return typed(rng, rng.choice([f"And {side.lower()} that?", f"And {side.lower()} {name}?"])), comes(side, name)


# Names


PEOPLE = [name for name in (files("microgpt.data") / "names.txt").read_text().split() if 2 <= len(name) <= 9]
INITIALS = [[name for name in PEOPLE if name[0] == letter] for letter in sorted({name[0] for name in PEOPLE})]


def somebody(rng: Random) -> str:
    """A name, often one that nobody has: two halves of others, which can only be copied letter by letter.

    One in three from an initial drawn first, so that every capital is met often enough.
    """
    name = rng.choice(rng.choice(INITIALS) if rng.random() < 0.33 else PEOPLE)
    if rng.random() < 0.3:
        other = rng.choice(PEOPLE)
        name = name[: (len(name) + 1) // 2] + other[len(other) // 2 :]
    return name.capitalize()


def introduction(rng: Random, name: str, wordings: list[str] = said.INTRODUCTIONS) -> Exchange:
    return typed(rng, rng.choice(wordings).format(name)), said.MET.format(name)


def name_question(rng: Random, name: str | None) -> Exchange:
    """Answered with the name that was told last, if one is in sight."""
    return typed(rng, rng.choice(said.WHO_AM_I)), said.REMEMBERED.format(name) if name else said.NOT_TOLD


# What there is to talk about, how often, and how it goes on

TOPICS: dict[Topic, float] = {
    small_sum: 20, below_zero: 4, large_sum: 4, colour: 8, opposite: 8, neighbour: 8, counting: 6, fact: 5, unknown: 8,
    small_talk: 13, echo: 8,
}  # fmt: skip
MORE: dict[Topic, Callable[[Random, str], Exchange]] = {
    small_sum: another_sum, colour: another_colour, opposite: another_opposite, neighbour: next_neighbour,
    counting: next_neighbour,
}  # fmt: skip
NAMED, WEIGHTS = list(TOPICS), list(TOPICS.values())
