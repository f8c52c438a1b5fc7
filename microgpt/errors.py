"""What a user is told when something is wrong: one sentence and an exit code. A bug keeps its traceback."""

import traceback

RECORDED_IN = "recorded in"  # begins the note on an error that a run.json tells already


class MicrogptError(Exception):
    """A failure that one sentence explains; the application prints it on stderr without a traceback."""

    exit_code = 1


class UserError(MicrogptError):
    """A mistake in what the user asked for: the sentence names the key, the value and what is allowed."""

    exit_code = 2


class NonFiniteError(MicrogptError):
    """A loss or a weight became NaN or infinite; the last checkpoint is still good."""


class MemoryDriftError(MicrogptError):
    """Resident memory grew from evaluation to evaluation beyond what the run allows."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or SIGTERM after it wrote its checkpoint and its record."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


def describe(error: BaseException) -> str:
    """The sentence of an explained failure, the traceback of a bug."""
    return str(error) if isinstance(error, MicrogptError) else "".join(traceback.format_exception(error)).rstrip()
