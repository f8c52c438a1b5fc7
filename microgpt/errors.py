"""Errors with a one-sentence message and an exit code. Any other exception is a bug and is shown with its traceback."""

import errno
import traceback

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RECORDED_IN = "recorded in"  # prefix of the note that is added to an error after it was recorded in a run.json


class MicrogptError(Exception):
    """A failure with a one-sentence message, which the application prints on stderr without a traceback."""

    exit_code = 1


class UserError(MicrogptError):
    """A user error. The message contains the key, its value and what is allowed."""

    exit_code = 2


class NonFiniteError(MicrogptError):
    """A loss or a weight became NaN or infinite. The last checkpoint is intact."""


class MemoryDriftError(MicrogptError):
    """Resident memory grew between evaluations by more than train.max_memory_growth allows."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or SIGTERM and has written its checkpoint and its record."""

    def __init__(self, signal_number: int):
        super().__init__(f"stopped by signal {signal_number}")
        self.exit_code = 128 + signal_number


def place_of(error: OSError, unknown: str) -> str:
    """Return the path that could not be read or written, or `unknown` if the error has no path.

    Errors of writing a file always have its path (atomic.naming), so a full disk without one concerns standard output.
    """
    return str(error.filename or ("standard output" if error.errno in FULL_DISK else unknown))


def describe(error: BaseException) -> str:
    """Return the message of a MicrogptError, or the traceback of any other error."""
    return str(error) if isinstance(error, MicrogptError) else "".join(traceback.format_exception(error)).rstrip()


def is_recorded(error: BaseException) -> bool:
    """Return whether the error is already recorded in a run.json."""
    return any(note.startswith(RECORDED_IN) for note in getattr(error, "__notes__", []))
