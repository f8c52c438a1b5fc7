"""task=chat: a conversation with a chat model on the terminal, or with a program through pipes."""

import contextlib
import math
import random
import sys
from dataclasses import replace

from microgpt.config.schema import Config
from microgpt.data.conversations import ASSISTANT, USER, Turn, encode_prompt_turns
from microgpt.errors import UserError
from microgpt.inference.generation import SamplingPolicy, continuation
from microgpt.inference.loading import Trained, load_trained
from microgpt.runs.record import Invocation

HELP = """/temperature T   0: always the likeliest; higher: more surprising
/clear           forget the conversation
/help            this
/quit            leave, as Ctrl-D does; Ctrl-C stops an answer"""


def chat(config: Config, invocation: Invocation) -> None:
    trained = load_trained(config, invocation)
    if not trained.is_chat:
        raise UserError(
            f"checkpoint={config.checkpoint} is not a chat model: task=chat needs one that was trained with data=chat"
        )
    seed = config.seed if config.sample.seed is None else config.sample.seed
    Talk(trained, random.Random(seed), is_terminal=sys.stdin.isatty()).run()


class Talk:
    """A conversation. Each line of standard input is the user's turn, or a command that begins with /."""

    def __init__(self, trained: Trained, rng: random.Random, is_terminal: bool):
        self.trained = trained
        self.policy: SamplingPolicy = trained.policy
        self.rng = rng
        self.is_terminal = is_terminal
        self.turns: list[Turn] = []

    def run(self) -> None:
        """Until /quit or the end of the input."""
        if self.is_terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 (input() has arrow keys and earlier lines then)
            info = self.trained.engine.info
            print(f"backend={info.backend} device={info.device} using_gpu={str(info.using_gpu).lower()}")
            print("/help lists the commands, Ctrl-D leaves")
        while (line := self.read()) is not None:
            if line.startswith("/"):
                if not self.obey(line):
                    return
            elif line:
                self.answer(line)

    def read(self) -> str | None:
        """The next line without the blanks at its ends, or None at the end of the input."""
        try:
            return input("you: " if self.is_terminal else "").strip()
        except EOFError:
            if self.is_terminal:
                print()
            return None
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
            print("\n(Ctrl-D or /quit leaves)")
            return ""

    def obey(self, line: str) -> bool:
        """Do what a command says; returns whether to go on."""
        command, _, value = line.partition(" ")
        if command == "/quit":
            return False
        if command == "/clear":
            self.turns = []
            self.tell("the conversation is forgotten")
        elif command == "/temperature":
            self.set_temperature(value.strip())
        elif command == "/help":
            print(HELP)
        else:
            self.complain(f"{command} is not a command: /help, /temperature, /clear and /quit are")
        return True

    def set_temperature(self, value: str) -> None:
        try:
            temperature = float(value)
        except ValueError:
            temperature = math.nan
        if not math.isfinite(temperature) or temperature < 0:
            self.complain(f"temperature must be finite and >= 0, got {value or 'nothing'}")
            return
        self.policy = replace(self.policy, temperature=temperature)
        self.tell(f"temperature {temperature:g}")

    def answer(self, line: str) -> None:
        """Print the answer character by character as it is drawn. A line that the model cannot read leaves no trace."""
        trained, turns = self.trained, [*self.turns, Turn(USER, line)]
        try:
            prompt, dropped = encode_prompt_turns(turns, trained.tokenizer, trained.block_size)
        except UserError as error:
            self.complain(str(error))
            return
        if dropped:
            self.tell(f"tokens_dropped={dropped}: the oldest part of the conversation is out of the model's sight")
        if self.is_terminal:
            print("microgpt: ", end="", flush=True)
        drawn = continuation(
            lambda: trained.engine.decoder(0), trained.tokenizer, trained.block_size, prompt, self.policy, self.rng
        )
        tokens, why = [], "end"
        try:
            while True:
                token = next(drawn)
                tokens.append(token)
                print(trained.tokenizer.decode([token]), end="", flush=True)
        except StopIteration as ended:
            why = ended.value
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
            why = "Ctrl-C"
        print("" if why == "end" else f"  [stopped: {why}]", flush=True)
        self.turns = [*turns, Turn(ASSISTANT, trained.tokenizer.decode(tokens))]

    def tell(self, what: str) -> None:
        """Beside the conversation: a program that reads the answers does not get it."""
        print(f"({what})", file=sys.stdout if self.is_terminal else sys.stderr, flush=True)

    def complain(self, what: str) -> None:
        print(f"error: {what}", file=sys.stderr, flush=True)
