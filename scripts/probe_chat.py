"""Ask a chat model (experiment=chat) about its training data, and count the correct answers.

First come single questions: in the wordings of the data set and in new wordings, with names that the data set does not
contain, and on unknown topics. Then come conversations, which are counted separately if their oldest turns no longer
fit the block of the model. The temperature is 0; an answer is right if it equals the answer of the data set. CHECKPOINT
is the folder of a run or checkpoint.

python -m microgpt experiment=chat
python scripts/probe_chat.py outputs/2026-01-02/08-00-00_abcdef12 --wrong
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import harness
from chat_generator import sentences
from chat_questions import TALKS_SEED, Asker, Probe, singles

from microgpt.config.schema import BackendConfig, Config, SampleConfig
from microgpt.data.conversations import ASSISTANT, USER, Turn, encode_prompt_turns
from microgpt.errors import UserError
from microgpt.inference.generation import generate
from microgpt.inference.loading import TrainedModel, load_model
from microgpt.runs.invocation import Invocation

REMEMBERED = re.compile(r"(?:Nice to meet you, |Your name is )(\w+)\.")


@dataclass(frozen=True)
class Reply:
    """An answer of the model; `expected` is the correct answer."""

    kind: str
    dropped: bool  # whether the oldest turns were left out
    question: str
    answer: str
    expected: str

    @property
    def right(self) -> bool:
        return self.answer == self.expected


def load(checkpoint: str, backend: str) -> TrainedModel:
    """Load a chat model with temperature 0. Raises UserError for any other model."""
    config = Config(checkpoint=checkpoint, backend=BackendConfig(name=backend), sample=SampleConfig(temperature=0))
    trained = load_model(config, Invocation())
    if not trained.is_chat:
        raise UserError(f"{checkpoint} is not a chat model: train one with experiment=chat")
    return trained


def answer(trained: TrainedModel, turns: Sequence[Turn]) -> tuple[str, int]:
    """Return the answer to the last turn, and how many of the oldest tokens were left out.

    If a character is not in the vocabulary, the answer is the error message, which is never right.
    """
    try:
        prompt, dropped = encode_prompt_turns(turns, trained.tokenizer, trained.block_size)
    except UserError as error:
        return f"<{error}>", 0
    return generate(trained.continuation(prompt, Random(0)), trained.new_decoder).text, dropped


def ask_singles(trained: TrainedModel) -> Iterator[Reply]:
    for probe in singles():
        reply_text, dropped = answer(trained, [Turn(USER, probe.question)])
        yield Reply(probe.kind, dropped > 0, probe.question, reply_text, probe.answer or "")


def converse(trained: TrainedModel, number: int, length: int) -> Iterator[Reply]:
    """Hold one conversation, which contains the model's own answers, right or wrong."""
    asker, turns = Asker(Random(TALKS_SEED + number)), list[Turn]()
    for _ in range(length):
        probe = asker.ask()
        turns.append(Turn(USER, probe.question))
        reply_text, dropped = answer(trained, turns)
        kind, expected = resolve(probe, in_sight(turns, dropped))
        yield Reply(kind, dropped > 0, probe.question, reply_text, expected)
        turns.append(Turn(ASSISTANT, reply_text))


def in_sight(turns: Sequence[Turn], dropped: int) -> Sequence[Turn]:
    """Return the turns that remain in a prompt without its oldest `dropped` tokens."""
    first = 0
    while dropped > 0:
        dropped -= turns[first].tokens
        first += 1
    return turns[first:]


def resolve(probe: Probe, turns: Sequence[Turn]) -> tuple[str, str]:
    """Return the kind and the right answer of a probe. The user's name is the last name in the remaining answers."""
    if probe.answer is not None:
        return probe.kind, probe.answer
    told = [found[1] for turn in turns if turn.role == ASSISTANT and (found := REMEMBERED.fullmatch(turn.content))]
    if told:
        return f"{probe.kind}, in sight", sentences.REMEMBERED.format(told[-1])
    return f"{probe.kind}, not in sight", sentences.NOT_TOLD


def with_progress(replies: Iterable[Reply], noun: str, every: int) -> list[Reply]:
    found = []
    for reply in replies:
        found.append(reply)
        if len(found) % every == 0:
            harness.say(f"{len(found)} {noun}, {sum(each.right for each in found)} right")
    return found


def count(replies: Iterable[Reply]) -> str:
    """Return the number of right answers / all answers; "" if there are none."""
    right = [reply.right for reply in replies]
    return f"{sum(right)}/{len(right)}" if right else ""


def print_singles(replies: Sequence[Reply]) -> None:
    kinds = dict.fromkeys(reply.kind for reply in replies)
    rows = [[kind, count(each for each in replies if each.kind == kind)] for kind in kinds]
    print(harness.table(["single questions", "right"], [*rows, ["all", count(replies)]]))


def print_talks(replies: Sequence[Reply], talks: int, turns: int) -> None:
    rows = []
    for kind in [*sorted({reply.kind for reply in replies}), "all"]:
        of_kind = [each for each in replies if kind in ("all", each.kind)]
        rows.append([kind, *(count(each for each in of_kind if each.dropped is dropped) for dropped in (False, True))])
    heading = [f"{talks} talks of {turns} turns", "nothing dropped", "the oldest turns out of sight"]
    print("\n" + harness.table(heading, rows))


def probe(chosen: argparse.Namespace) -> None:
    harness.require(chosen, talks=0, turns=1)
    trained = load(chosen.checkpoint, chosen.backend)
    alone = with_progress(ask_singles(trained), "single questions", every=200)
    print_singles(alone)
    in_talks = (each for number in range(chosen.talks) for each in converse(trained, number, chosen.turns))
    talked = with_progress(in_talks, "turns of talks", every=60)
    if talked:
        print_talks(talked, chosen.talks, chosen.turns)
    if chosen.wrong:
        wrong = [[r.kind, r.question, r.answer, r.expected] for r in [*alone, *talked] if not r.right]
        print("\n" + harness.table(["kind", "asked", "answered", "right"], wrong))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--talks", type=int, default=20, help="(20)")
    parser.add_argument("--turns", type=int, default=12, help="turns of each talk (12)")
    parser.add_argument("--backend", default="native", choices=["native", "python", "torch"])
    parser.add_argument("--wrong", action="store_true", help="list the wrong answers")
    chosen = parser.parse_args(arguments)
    return harness.finish(lambda: probe(chosen))


if __name__ == "__main__":
    sys.exit(main())
