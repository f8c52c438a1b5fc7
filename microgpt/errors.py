"""Errors that one sentence explains, with their exit codes. Every other exception is a bug and keeps its traceback."""

import errno
import traceback

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RECORDED_IN = "recorded in"  # begins the note on an error that a run.json already states


class MicrogptError(Exception):
    """A failure that one sentence explains; the application prints it on stderr without a traceback."""

    exit_code = 1


class UserError(MicrogptError):
    """A mistake in the request: the sentence names the key, the value and what is allowed."""

    exit_code = 2


class NonFiniteError(MicrogptError):
    """A loss or a weight became NaN or infinite; the last checkpoint is intact."""


class MemoryDriftError(MicrogptError):
    """Resident memory grew from evaluation to evaluation beyond train.max_memory_growth."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or SIGTERM, after it wrote its checkpoint and its record."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


def place_of(error: OSError, unknown: str) -> str:
    """Return the path that could not be read or written; `unknown` if the error names none.

    Every write to a file names it (atomic.naming), so a full disk without a path is that of standard output.
    """
    return str(error.filename or ("standard output" if error.errno in FULL_DISK else unknown))


def describe(error: BaseException) -> str:
    """Return the sentence of a MicrogptError, the traceback of any other error."""
    return str(error) if isinstance(error, MicrogptError) else "".join(traceback.format_exception(error)).rstrip()


def is_recorded(error: BaseException) -> bool:
    """Return whether a run.json already states the error."""
    return any(note.startswith(RECORDED_IN) for note in getattr(error, "__notes__", []))
