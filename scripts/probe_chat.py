"""Ask a model of the embedded chat set (experiment=chat) what it was taught, at temperature 0, and count right answers.

Single questions first: in wordings that are taught and in others, with names that are in no list, and with what is not
taught. Then talks of some turns, counted apart where the oldest turns were out of the model's sight. An answer is right
that is the set's own to the letter. CHECKPOINT is the folder of a run or of a checkpoint.

python -m microgpt experiment=chat
python scripts/probe_chat.py outputs/2026-01-02/08-00-00_abcdef12 --wrong
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from _chat_probes import TALKS_SEED, Asker, Probe, singles
from chat_generator import sentences

from microgpt.config.schema import BackendConfig, Config, SampleConfig
from microgpt.data.conversations import ASSISTANT, USER, Turn, encode_prompt_turns
from microgpt.errors import MicrogptError, UserError
from microgpt.inference.generation import generate
from microgpt.inference.loading import TrainedModel, load_model
from microgpt.runs.record import Invocation

REMEMBERED = re.compile(r"(?:Nice to meet you, |Your name is )(\w+)\.")


@dataclass(frozen=True)
class Outcome:
    """What was answered; `expected` is the right answer."""

    kind: str
    dropped: bool  # whether the oldest turns were out of sight
    question: str
    answer: str
    expected: str

    @property
    def right(self) -> bool:
        return self.answer == self.expected


def load(checkpoint: str, backend: str) -> TrainedModel:
    """A chat model that answers with the likeliest letters. Raises UserError for what is none."""
    config = Config(checkpoint=checkpoint, backend=BackendConfig(name=backend), sample=SampleConfig(temperature=0))
    trained = load_model(config, Invocation())
    if not trained.is_chat:
        raise UserError(f"{checkpoint} is not a chat model: probe one that was trained with experiment=chat")
    return trained


def answer(trained: TrainedModel, turns: Sequence[Turn]) -> tuple[str, int]:
    """The answer to the last turn, and how many tokens of the oldest were left out.

    What the model has no letters for is answered with the program's refusal, which is never right.
    """
    try:
        prompt, dropped = encode_prompt_turns(turns, trained.tokenizer, trained.block_size)
    except UserError as error:
        return f"<{error}>", 0
    return generate(trained.continuation(prompt, Random(0)), trained.new_decoder).text, dropped


def asked_alone(trained: TrainedModel) -> Iterator[Outcome]:
    for probe in singles():
        said_back, dropped = answer(trained, [Turn(USER, probe.question)])
        yield Outcome(probe.kind, dropped > 0, probe.question, said_back, probe.answer or "")


def talk(trained: TrainedModel, number: int, length: int) -> Iterator[Outcome]:
    """One talk, which goes on from the model's own answers, right or wrong."""
    asker, turns = Asker(Random(TALKS_SEED + number)), list[Turn]()
    for _ in range(length):
        probe = asker.ask()
        turns.append(Turn(USER, probe.question))
        said_back, dropped = answer(trained, turns)
        kind, expected = settled(probe, in_sight(turns, dropped))
        yield Outcome(kind, dropped > 0, probe.question, said_back, expected)
        turns.append(Turn(ASSISTANT, said_back))


def in_sight(turns: Sequence[Turn], dropped: int) -> Sequence[Turn]:
    """The turns of a prompt from whose oldest `dropped` tokens were left out."""
    first = 0
    while dropped > 0:
        dropped -= turns[first].tokens
        first += 1
    return turns[first:]


def settled(probe: Probe, turns: Sequence[Turn]) -> tuple[str, str]:
    """A probe's kind and right answer. A name that is asked for is the last that an answer in sight has in it."""
    if probe.answer is not None:
        return probe.kind, probe.answer
    told = [found[1] for turn in turns if turn.role == ASSISTANT and (found := REMEMBERED.fullmatch(turn.content))]
    if told:
        return f"{probe.kind}, in sight", sentences.REMEMBERED.format(told[-1])
    return f"{probe.kind}, not in sight", sentences.NOT_TOLD


def told_of(outcomes: Iterable[Outcome], what: str, every: int) -> list[Outcome]:
    """All of them, and on standard error how far it is."""
    found = []
    for outcome in outcomes:
        found.append(outcome)
        if len(found) % every == 0:
            print(f"{len(found)} {what}, {sum(each.right for each in found)} right", file=sys.stderr, flush=True)
    return found


def count(outcomes: Iterable[Outcome]) -> str:
    """Right ones of all; empty where there are none."""
    right = [outcome.right for outcome in outcomes]
    return f"{sum(right)}/{len(right)}" if right else ""


def print_singles(outcomes: Sequence[Outcome]) -> None:
    print("| single questions | right |\n|---|---|")
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        print(f"| {kind} | {count(each for each in outcomes if each.kind == kind)} |")
    print(f"| all | {count(outcomes)} |")


def print_talks(outcomes: Sequence[Outcome], talks: int, turns: int) -> None:
    print(f"\n| {talks} talks of {turns} turns | nothing dropped | the oldest turns out of sight |\n|---|---|---|")
    for kind in [*sorted({outcome.kind for outcome in outcomes}), "all"]:
        of_kind = [each for each in outcomes if kind in ("all", each.kind)]
        whole, rest = (count(each for each in of_kind if each.dropped is dropped) for dropped in (False, True))
        print(f"| {kind} | {whole} | {rest} |")


def print_wrong(outcomes: Iterable[Outcome]) -> None:
    print("\n| kind | asked | answered | right |\n|---|---|---|---|")
    for each in outcomes:
        if not each.right:
            print(f"| {each.kind} | {each.question} | {each.answer} | {each.expected} |")


def probe(chosen: argparse.Namespace) -> None:
    for key, value, least in (("talks", chosen.talks, 0), ("turns", chosen.turns, 1)):
        if value < least:
            raise UserError(f"--{key} {value} is not allowed: it must be {least} or more")
    trained = load(chosen.checkpoint, chosen.backend)
    alone = told_of(asked_alone(trained), "single questions", every=200)
    print_singles(alone)
    in_talks = (each for number in range(chosen.talks) for each in talk(trained, number, chosen.turns))
    talked = told_of(in_talks, "turns of talks", every=60)
    if talked:
        print_talks(talked, chosen.talks, chosen.turns)
    if chosen.wrong:
        print_wrong([*alone, *talked])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--talks", type=int, default=20)
    parser.add_argument("--turns", type=int, default=12, help="of each talk")
    parser.add_argument("--backend", default="native", choices=["native", "python", "torch"])
    parser.add_argument("--wrong", action="store_true", help="list the answers that are not right")
    try:
        probe(parser.parse_args(arguments))
    except MicrogptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
