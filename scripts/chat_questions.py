"""The questions of probe_chat.py with their right answers: single questions and conversations.

The data set contains none of the new wordings, unlisted names and unknown topics in this file; the other questions come
from its sentences and generators (scripts/chat_generator/). Fixed seeds determine how a question is typed; the order of
the random draws affects the results.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from chat_generator import sentences, topics
from chat_generator.topics import Exchange, Topic

SEED = 99  # for the single questions
TALKS_SEED = 7000  # for the first conversation; the next conversations have the following seeds
LONGEST_NAME = 10  # characters

NAMES = [
    "Zbigniew", "Xenia", "Ulrike", "Wolfgang", "Maarten", "Quentin", "Ingeborg", "Friedrich", "Hjalmar", "Siobhan",
    "Yevgenia", "Dmitri", "Piotr", "Agnieszka", "Giulia", "Matteo", "Bjorn", "Astrid", "Katarzyna", "Oluwaseun",
    "Chidi", "Nneka", "Hiroshi", "Yuki", "Kenji", "Sakura", "Wei", "Ming", "Ravi", "Priyanka", "Anand", "Deepak",
    "Fatoumata", "Moussa", "Amadou", "Thorsten", "Heike", "Uwe", "Jutta", "Gudrun", "Ewald", "Odile", "Yvette", "Bo",
    "Ulla", "Vaclav", "Zdenek", "Quirin", "Xaver", "Ludmila", "Rolf", "Detlef", "Fritz", "Hannelore", "Ottokar",
    "Pancho", "Ximeno", "Unni", "Zuzana", "Jorg",
]  # fmt: skip
UNLISTED = [name for name in NAMES if name.lower() not in topics.PEOPLE and len(name) <= LONGEST_NAME]
COMMON = ["Anna", "Peter", "Maria", "John", "Emma", "Thomas", "Sophia", "Paul", "Laura", "David"]
TOLD = ["My name is {}.", "my name is {}", "I am {}", "i'm {}", "Hi, I'm {}!", "Hello, my name is {}."]
TOLD_LOWER = ["my name is {}.", "i am {}", "i'm {}", "hi, i am {}", "call me {}"]

NEW_SUMS = [
    "Compute {a} {sign} {b}",
    "What does {a} {sign} {b} make?",
    "Please tell me how much {a} {word} {b} is.",
    "Hello, what is {a} {sign} {b}?",
    "So {a} {sign} {b} is?",
]
ECHOED = ["banana", "hello", "microgpt", "cat dog", "one two three"]
COLOURS = ["What colour is {}?", "what color is {}"]
NEW_COLOURS = ["Please tell me, what colour is {}?", "do you know the colour of {}?"]
OPPOSITES = ["What is the opposite of {}?", "opposite of {}"]
NEW_OPPOSITES = ["Which word is the opposite of {}?"]

NOT_TAUGHT = [
    "What is the capital of Brazil?", "where is Tokyo?", "Who wrote Faust?", "Write a novel.", "Why is grass green?",
    "Explain physics.", "How far is Mars?", "what is the weather in Rome?", "Who won the cup?",
    "Can you play the piano?", "tell me about Rome", "What is a table?", "How do I cook rice?",
    "what time does the shop open?", "Do you have a car?", "I like music", "Where do you live?",
    "what will happen next week?",
]  # fmt: skip
GREETINGS = [
    "Hello", "hello", "HI there", "Hi", "hi!", "Good morning", "hey there", "Hello hello", "hi microgpt!",
    "good evening",
]  # fmt: skip
GREETED = "Hello! Nice to see you."
NEW_SMALL_TALK = {
    "Good morning to you!": GREETED,
    "How are you doing?": "I am fine, thank you.",
    "thank you so much": "You are welcome.",
    "what's your name please": "My name is microgpt.",
    "Do you know who you are?": "My name is microgpt.",
    "see you tomorrow": "Goodbye! See you soon.",
    "I am very happy today": "That is good to hear.",
    "I am so tired": "I am sorry to hear that.",
    "who is your maker?": "The microgpt developers made me.",
    "you are a good robot": "Thank you!",
}


@dataclass(frozen=True)
class Probe:
    """A question and its right answer; None: the answer depends on the turns that fit the block."""

    kind: str
    question: str
    answer: str | None


def singles() -> Iterator[Probe]:
    """Yield the single questions."""
    rng = Random(SEED)
    for kind, (question, answer) in [*sums(rng), *names(rng), *words(), *rounds(), *small_talk()]:
        yield Probe(kind, question, answer)


def sums(rng: Random) -> Iterator[tuple[str, Exchange]]:
    for a, b in topics.PAIRS:
        for sign in "+-":
            yield "sums, a wording that is taught", topics.sum_of(rng, a, sign, b, sentences.SUMS)
            yield "sums, new wording", topics.sum_of(rng, a, sign, b, NEW_SUMS)


def names(rng: Random) -> Iterator[tuple[str, Exchange]]:
    for name in UNLISTED:
        yield "names in no list", (rng.choice(TOLD).format(name), sentences.MET.format(name))
        yield "names in no list, lower case", (rng.choice(TOLD_LOWER).format(name.lower()), sentences.MET.format(name))
    for name in COMMON:
        yield "common names", (f"My name is {name}.", sentences.MET.format(name))
        yield "common names", (f"i'm {name.lower()}", sentences.MET.format(name))
    for text in ECHOED:
        yield "words to repeat", (f"say {text}", topics.capital(text) + ".")


def words() -> Iterator[tuple[str, Exchange]]:
    """Yield questions about colours and opposites."""
    for thing, colour in sentences.COLOURS.items():
        answer = topics.capital(f"{thing} is {colour}.")
        yield from (("colours", (wording.format(thing), answer)) for wording in COLOURS)
        yield from (("colours, new wording", (wording.format(thing), answer)) for wording in NEW_COLOURS)
    for word, opposite in sentences.OPPOSITES.items():
        answer = f"The opposite of {word} is {opposite}."
        yield from (("opposites", (wording.format(word), answer)) for wording in OPPOSITES)
        yield from (("opposites, new wording", (wording.format(word), answer)) for wording in NEW_OPPOSITES)


def rounds() -> Iterator[tuple[str, Exchange]]:
    """Yield questions about days and months, facts, counting, and unknown topics."""
    for kind, named in topics.ROUNDS:
        for name in named:
            yield "days and months", (f"What comes after {name}?", topics.comes("After", name))
            yield "days and months", (f"what {kind} comes before {name.lower()}", topics.comes("Before", name))
            yield "days and months, new wording", (f"Which {kind} follows after {name}?", topics.comes("After", name))
    yield from (("facts", (question.lower(), answer)) for question, answer in sentences.FACTS.items())
    for n in range(2, 11):
        yield "counting", (f"count to {n}", ", ".join(map(str, range(1, n + 1))) + ".")
    yield from (("not taught", (question, sentences.I_DO_NOT_KNOW)) for question in NOT_TAUGHT)


def small_talk() -> Iterator[tuple[str, Exchange]]:
    for questions, (answer,) in sentences.SMALL_TALK:
        for question in questions:
            yield "small talk", (question, answer)
            yield "small talk", (question.lower().rstrip("?.!"), answer)
    yield from (("greetings", (question, GREETED)) for question in GREETINGS)
    for question in sentences.WHO_AM_I:
        yield "a name that was not told", (question, sentences.NOT_TOLD)
        yield "a name that was not told", (question.lower().rstrip("?."), sentences.NOT_TOLD)
    yield from (("small talk, new wording", exchange) for exchange in NEW_SMALL_TALK.items())


@dataclass
class Asker:
    """The user of a conversation from the data set's generators: names, questions about them, topics, follow-ups."""

    rng: Random
    asked: int = 0
    told: str | None = None  # the name that the user gave last
    topic: Topic | None = None  # of the last turn
    answer: str = ""  # the right answer to the last turn
    kinds: list[str] = field(default_factory=list)

    def ask(self) -> Probe:
        """Return the next turn."""
        chance, nameless = self.rng.random(), self.asked == 3 and self.told is None
        self.asked += 1
        if chance < 0.10 or nameless:
            self.told, self.topic = self.rng.choice(UNLISTED), None
            return Probe("introduction", *topics.introduction(self.rng, self.told))
        if chance < 0.27:
            self.topic = None
            return Probe("name asked for", topics.typed(self.rng, self.rng.choice(sentences.WHO_AM_I)), None)
        if self.topic is not None and self.topic in topics.FOLLOW_UPS and chance < 0.42:
            kind = f"{called(self.topic)}, follow-up"
            question, self.answer = topics.FOLLOW_UPS[self.topic](self.rng, self.answer)
        else:
            self.topic = self.rng.choices(topics.NAMED, topics.WEIGHTS)[0]
            kind = called(self.topic)
            question, self.answer = self.topic(self.rng)
        return Probe(kind, question, self.answer)


def called(topic: Topic) -> str:
    return topic.__name__.replace("_", " ")
