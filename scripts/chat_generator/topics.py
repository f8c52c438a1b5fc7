"""Topics of the bundled chat data: each function returns one exchange, a question as a user types it and its answer."""

from collections.abc import Callable
from importlib.resources import files
from random import Random

from chat_generator import sentences

Exchange = tuple[str, str]  # the user's turn, the assistant's answer
Topic = Callable[[Random], Exchange]

PAIRS = [(a, b) for a in range(10) for b in range(10)]
SMALL_SUMS = [(a, "+", b) for a, b in PAIRS] + [(a, "-", b) for a, b in PAIRS if a >= b]
BELOW_ZERO = [(a, "-", b) for a, b in PAIRS if a < b]
ADDING = [*sentences.SUMS, *sentences.ADD_ONLY]


def typed(rng: Random, sentence: str) -> str:
    """Return a sentence as a user may type it: in lower case, without the final mark or without commas."""
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
    """Return the text with its first letter in upper case."""
    return text[0].upper() + text[1:]


def small_talk(rng: Random) -> Exchange:
    return talk(rng, rng.choice(sentences.SMALL_TALK))


def talk(rng: Random, row: tuple[list[str], list[str]]) -> Exchange:
    questions, (answer,) = row
    return typed(rng, rng.choice(questions)), answer


def sum_of(rng: Random, a: int, sign: str, b: int, wordings: list[str]) -> Exchange:
    """Return a sum in a random wording; the answer has one wording, and another one if a number is too large."""
    word = {"+": "plus", "-": "minus"}[sign]
    aa, bb = (sentences.DIGITS[n] if n < len(sentences.DIGITS) else str(n) for n in (a, b))
    question = typed(rng, capital(rng.choice(wordings).format(a=a, b=b, sign=sign, word=word, aa=aa, bb=bb)))
    if max(a, b) > 9:
        return question, sentences.TOO_LARGE
    if sign == "-" and b > a:
        return question, f"{a} - {b} is less than 0."
    return question, f"{a} {sign} {b} = {a + b if sign == '+' else a - b}."


def small_sum(rng: Random) -> Exchange:
    a, sign, b = rng.choice(SMALL_SUMS)
    return sum_of(rng, a, sign, b, ADDING if sign == "+" else sentences.SUMS)


def below_zero(rng: Random) -> Exchange:
    return sum_of(rng, *rng.choice(BELOW_ZERO), sentences.SUMS)


def large_sum(rng: Random) -> Exchange:
    if rng.random() < 0.4:
        a, b = rng.randrange(13), rng.randrange(13)
        return typed(rng, rng.choice(sentences.TIMES).format(a, b)), sentences.NO_TIMES
    numbers = [rng.randrange(10, rng.choice([20, 100, 1000])), rng.randrange(rng.choice([10, 100]))]
    rng.shuffle(numbers)
    return sum_of(rng, numbers[0], rng.choice("+-"), numbers[1], sentences.SUMS)


def colour(rng: Random) -> Exchange:
    thing = rng.choice(list(sentences.COLOURS))
    told = f"{thing} is {sentences.COLOURS[thing]}."
    if rng.random() < 0.75:
        return typed(rng, rng.choice(sentences.COLOUR_QUESTIONS).format(thing)), capital(told)
    guess = rng.choice([sentences.COLOURS[thing], rng.choice(list(sentences.COLOURS.values()))])
    return typed(rng, f"Is {thing} {guess}?"), f"{'Yes' if guess == sentences.COLOURS[thing] else 'No'}, {told}"


def opposite(rng: Random, wordings: list[str] = sentences.OPPOSITE_QUESTIONS) -> Exchange:
    word = rng.choice(list(sentences.OPPOSITES))
    return typed(rng, rng.choice(wordings).format(word)), f"The opposite of {word} is {sentences.OPPOSITES[word]}."


ROUNDS = [("day", sentences.DAYS), ("month", sentences.MONTHS)]
NEIGHBOURS = {  # (After or Before, name): the next or the previous one; days and months are cyclic
    (side, names[i]): names[(i + step) % len(names)]
    for _, names in ROUNDS
    for side, step in (("After", 1), ("Before", -1))
    for i in range(len(names))
} | {("After", str(n)): str(n + 1) for n in range(20)}


def neighbour(rng: Random) -> Exchange:
    """Ask for the day or the month before or after another."""
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
    """Ask the model to repeat words, which teaches it to copy."""
    words = [
        random_name(rng) if rng.random() < 0.7 else rng.choice(list(sentences.OPPOSITES))
        for _ in range(rng.choice([1, 1, 2, 3]))
    ]
    text = " ".join(words).lower()
    return typed(rng, rng.choice(sentences.ECHOES).format(text)), capital(text) + "."


def fact(rng: Random) -> Exchange:
    question = rng.choice(list(sentences.FACTS))
    return typed(rng, question), sentences.FACTS[question]


def unknown(rng: Random) -> Exchange:
    return typed(rng, rng.choice(sentences.UNKNOWN)), sentences.I_DO_NOT_KNOW


# Follow-ups: questions that refer to the answer before them


def another_sum(rng: Random, _: str) -> Exchange:
    return sum_of(rng, *rng.choice(SMALL_SUMS), sentences.MORE_SUMS)


def another_colour(rng: Random, _: str) -> Exchange:
    thing = rng.choice(list(sentences.COLOURS))
    answer = capital(f"{thing} is {sentences.COLOURS[thing]}.")
    return typed(rng, rng.choice(sentences.MORE_COLOURS).format(thing)), answer


def another_opposite(rng: Random, _: str) -> Exchange:
    return opposite(rng, sentences.MORE_OPPOSITES)


def next_neighbour(rng: Random, answer: str) -> Exchange:
    """Ask what comes after the day, month or number of the last answer."""
    side, *_, name = answer.rstrip(".").split()
    if (side, name) not in NEIGHBOURS:  # a list of numbers, or the last known one
        return counting(rng)
    return typed(rng, rng.choice([f"And {side.lower()} that?", f"And {side.lower()} {name}?"])), comes(side, name)


# Names


PEOPLE = [name for name in (files("microgpt.data") / "names.txt").read_text().split() if 2 <= len(name) <= 9]
INITIALS = [[name for name in PEOPLE if name[0] == letter] for letter in sorted({name[0] for name in PEOPLE})]


def random_name(rng: Random) -> str:
    """Return a name, often built from two halves of other names, which can only be copied letter by letter.

    For a third of the names, the initial is drawn first, so that every capital letter occurs often enough.
    """
    name = rng.choice(rng.choice(INITIALS) if rng.random() < 0.33 else PEOPLE)
    if rng.random() < 0.3:
        other = rng.choice(PEOPLE)
        name = name[: (len(name) + 1) // 2] + other[len(other) // 2 :]
    return name.capitalize()


def introduction(rng: Random, name: str, wordings: list[str] = sentences.INTRODUCTIONS) -> Exchange:
    return typed(rng, rng.choice(wordings).format(name)), sentences.MET.format(name)


def name_question(rng: Random, name: str | None) -> Exchange:
    """Ask for the user's name; the answer contains the last name in the conversation, if there is one."""
    return typed(rng, rng.choice(sentences.WHO_AM_I)), sentences.REMEMBERED.format(name) if name else sentences.NOT_TOLD


TOPICS: dict[Topic, float] = {  # relative frequencies
    small_sum: 20, below_zero: 4, large_sum: 4, colour: 8, opposite: 8, neighbour: 8, counting: 6, fact: 5, unknown: 8,
    small_talk: 13, echo: 8,
}  # fmt: skip
FOLLOW_UPS: dict[Topic, Callable[[Random, str], Exchange]] = {
    small_sum: another_sum, colour: another_colour, opposite: another_opposite, neighbour: next_neighbour,
    counting: next_neighbour,
}  # fmt: skip
NAMED, WEIGHTS = list(TOPICS), list(TOPICS.values())
