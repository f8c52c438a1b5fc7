"""Writes files atomically: a reader, or the next run after a crash, finds the old or the new content, never a part."""

import ctypes
import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
SHARED_DEPTH = 2  # depth of dictionaries that many documents share, such as the groups of a configuration
FEW = 24  # files to flush one by one: flushing the whole file system may wait for the files of other programs


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file: write a temporary file, flush it to disk, rename it. Creates missing folders. Text is UTF-8."""
    write_all_atomically({path: content})


def write_all_atomically(contents: Mapping[Path, bytes | str], durable: bool = True) -> None:
    """Replace files on one file system, each atomically, and flush them to disk together.

    If not `durable`, nothing is flushed: a power failure may leave a file empty, but a killed process cannot.
    """
    temporary: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            with naming(path):
                beside = path.with_name(f".{path.name}.{os.getpid()}_{threading.get_ident()}")
                temporary[path] = beside
                # Lone surrogates in file names that are not UTF-8 are written as \uXXXX, which is valid JSON.
                write_file(beside, content.encode(errors="backslashreplace") if isinstance(content, str) else content)
        if durable and temporary:
            with naming(next(iter(temporary))):
                flush_to_disk(list(temporary.values()))
        for path, beside in temporary.items():
            with naming(path):
                beside.replace(path)
    except BaseException:
        for beside in temporary.values():
            beside.unlink(missing_ok=True)
        raise


def write_file(path: Path, content: bytes) -> None:
    """Write a file. Creates missing folders."""
    try:
        handle = os.open(path, CREATE, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, CREATE, 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(handle, left) :]
    finally:
        os.close(handle)


def flush_to_disk(paths: Sequence[Path]) -> None:
    """Flush files and folders on one file system to disk, many of them with one call if the system supports it."""
    flush_all = sync_file_system() if len(paths) > FEW else None
    for path in paths[:1] if flush_all else paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            if flush_all is None:
                os.fsync(handle)
            elif flush_all(handle) != 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
        except OSError as error:  # some network and foreign file systems cannot flush a directory
            if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)


@cache
def sync_file_system() -> Callable[[int], int] | None:
    """Return the Linux function syncfs, which flushes all files of a file system, or None on other systems."""
    try:
        return ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError, TypeError):
        return None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the path to an OSError raised while writing a file: the error for a full disk has no path."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def write_json(path: Path, document: Any) -> None:
    """Write a document atomically as indented JSON. Raises ValueError for NaN and infinity, which are not JSON."""
    write_atomically(path, json_text(document))


def json_text(document: Any) -> str:
    """Return the same as json.dumps with indent=2, in a fraction of the time. All keys must be strings."""
    return f"{indented(document, chr(10))}\n"


def indented(value: Any, line: str, depth: int = 0) -> str:
    """Return a value as indented JSON; `line` is a line break plus the indentation of the value's first line."""
    if not value or not isinstance(value, dict | list | tuple):
        return ENCODE(value)
    if depth == SHARED_DEPTH and isinstance(value, dict):
        return indented_text(ENCODE(value), line)
    inner = f"{line}  "
    if isinstance(value, dict):
        items = [f"{ENCODE(key)}: {indented(item, inner, depth + 1)}" for key, item in value.items()]
        return f"{{{inner}{f',{inner}'.join(items)}{line}}}"
    return f"[{inner}{f',{inner}'.join([indented(item, inner, depth + 1) for item in value])}{line}]"


@lru_cache(1000)
def indented_text(text: str, line: str) -> str:
    return indented(json.loads(text), line, SHARED_DEPTH + 1)


def make_new(path: Path) -> bool:
    """Create a folder and its parents. Returns whether it is new."""
    try:
        path.mkdir()
    except FileNotFoundError:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    return True
