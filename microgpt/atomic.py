"""Atomic writing of files: a reader, or the next run after a crash, finds the old content or the new, never a part."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace a file: write beside it, flush to disk, rename. Makes missing folders. Text is written as UTF-8."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                # Names of files that are not UTF-8 contain lone surrogates: written as \uXXXX, which JSON reads back.
                file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~current_umask())  # mkstemp allows only the owner to read
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of writing a file state its path: that of a full disk states none."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def write_json(path: Path, document: Any) -> None:
    """Write a document atomically as indented JSON. Raises ValueError for NaN and infinity, which JSON lacks."""
    write_atomically(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
