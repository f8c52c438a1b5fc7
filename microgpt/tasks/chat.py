"""task=chat: a conversation with a chat model in the terminal, or through pipes with another program."""

import contextlib
import math
import random
import sys
from dataclasses import replace

from microgpt.config.schema import Config
from microgpt.data.conversations import ASSISTANT, USER, Turn, encode_prompt_turns
from microgpt.data.display import escaped
from microgpt.errors import UserError
from microgpt.inference.generation import stream
from microgpt.inference.loading import TrainedModel, load_model
from microgpt.runs.invocation import Invocation

HELP = """/temperature T   set the temperature; 0: always the most likely character; higher: more varied answers
/clear           start a new conversation
/help            show this help
/quit            quit, like Ctrl-D; Ctrl-C stops an answer"""


def chat(config: Config, invocation: Invocation) -> None:
    model = load_model(config, invocation)
    if not model.is_chat:
        raise UserError(
            f"checkpoint={config.checkpoint} is not a chat model: task=chat needs a model trained with data=chat"
        )
    seed = config.seed if config.sample.seed is None else config.sample.seed
    Conversation(model, random.Random(seed), is_terminal=sys.stdin.isatty()).run()


class Conversation:
    """A conversation in which each line of standard input is a user turn or a command that starts with /."""

    def __init__(self, model: TrainedModel, rng: random.Random, is_terminal: bool):
        self.model = model
        self.rng = rng
        self.is_terminal = is_terminal
        self.turns: list[Turn] = []

    def run(self) -> None:
        """Answer until /quit or the end of the input."""
        if self.is_terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 (adds arrow keys and a history to input())
            info = self.model.engine.info
            print(f"backend={info.backend} device={info.device} using_gpu={str(info.using_gpu).lower()}")
            print("/help lists the commands, Ctrl-D quits")
        while (line := self.read()) is not None:
            if line.startswith("/"):
                if not self.run_command(line):
                    return
            elif line:
                self.answer(line)

    def read(self) -> str | None:
        """Return the next line without surrounding whitespace, or None at the end of the input."""
        try:
            return input("you: " if self.is_terminal else "").strip()
        except EOFError:
            if self.is_terminal:
                print()
            return None
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
            print("\n(Ctrl-D or /quit quits)")
            return ""

    def run_command(self, line: str) -> bool:
        """Run a command that starts with /. Returns whether the conversation continues."""
        command, _, value = line.partition(" ")
        if command == "/quit":
            return False
        if command == "/clear":
            self.turns = []
            self.print_note("new conversation")
        elif command == "/temperature":
            self.set_temperature(value.strip())
        elif command == "/help":
            print(HELP)
        else:
            self.print_error(f"{command} is not a command: use /help, /temperature, /clear or /quit")
        return True

    def set_temperature(self, value: str) -> None:
        try:
            temperature = float(value)
        except ValueError:
            temperature = math.nan
        if not math.isfinite(temperature) or temperature < 0:
            self.print_error(f"temperature must be finite and >= 0, got {value or 'nothing'}")
            return
        self.model = replace(self.model, policy=replace(self.model.policy, temperature=temperature))
        self.print_note(f"temperature {temperature:g}")

    def answer(self, line: str) -> None:
        """Print the answer character by character as it is generated.

        A line with characters that the model does not know is an error and does not become a turn.
        """
        model, turns = self.model, [*self.turns, Turn(USER, line)]
        try:
            prompt, dropped = encode_prompt_turns(turns, model.tokenizer, model.block_size)
        except UserError as error:
            self.print_error(str(error))
            return
        if dropped:
            self.print_note(
                f"tokens_dropped={dropped}: the oldest part of the conversation no longer fits the model's context"
            )
        if self.is_terminal:
            print("microgpt: ", end="", flush=True)
        continuation = model.continuation(prompt, self.rng)
        text = ""
        try:
            for token in stream(continuation, model.new_decoder):
                character = model.tokenizer.decode([token])
                text += character
                print(escaped(character), end="", flush=True)
            why = continuation.stop_reason
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
            why = "Ctrl-C"
        print("" if why == "end" else f"  [stopped: {why}]", flush=True)
        self.turns = [*turns, Turn(ASSISTANT, text)]

    def print_note(self, note: str) -> None:
        """Print a line that is not part of an answer, on standard error if a program reads the answers."""
        print(f"({note})", file=sys.stdout if self.is_terminal else sys.stderr, flush=True)

    def print_error(self, message: str) -> None:
        print(f"error: {message}", file=sys.stderr, flush=True)
