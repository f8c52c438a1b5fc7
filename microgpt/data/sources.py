"""Where texts come from: the embedded names and chat, the reference names.txt (local, cached or fetched), any file."""

import hashlib
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from microgpt.atomic import write_atomically
from microgpt.errors import UserError

MAKEMORE_URL = "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt"
MAKEMORE_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
DATA_DIR_VARIABLE = "MICROGPT_DATA_DIR"


@dataclass(frozen=True)
class Source:
    """A text as it was read, and what identifies it in a record."""

    name: str  # names | makemore | text | chat
    origin: str  # the file it came from, for messages
    sha256: str
    text: str


def read_source(name: str, path: str | None) -> Source:
    """Read a data set's text. Raises UserError for a file that is missing, empty or not UTF-8."""
    if name == "names":
        return decode_source(name, "the embedded names", (files("microgpt.data") / "names.txt").read_bytes())
    if name == "chat" and path is None:
        from microgpt.data.lessons import chat_text

        return decode_source(name, "the embedded chat", chat_text().encode())
    if name == "makemore":
        file = makemore_file()
        return decode_source(name, str(file), file.read_bytes())
    assert path is not None, "checked in rules.py"
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"data.path={path} cannot be read: {error.strerror}") from error
    return decode_source(name, f"data.path={path}", content)


def decode_source(name: str, origin: str, content: bytes) -> Source:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{origin} is not UTF-8 text: byte 0x{content[error.start]:02x} at offset {error.start}"
        ) from error
    if not text.strip():
        raise UserError(f"{origin} is empty: a data set needs at least one line of text")
    return Source(name, origin, hashlib.sha256(content).hexdigest(), text)


def cache_dir() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("microgpt")


def makemore_file() -> Path:
    """The reference names.txt: from MICROGPT_DATA_DIR, else the cache, else fetched into it; its hash is checked."""
    local = os.environ.get(DATA_DIR_VARIABLE)
    candidates = [Path(local) / "names.txt"] if local else []
    cached = cache_dir() / "names.txt"
    for file in [*candidates, cached]:
        if file.is_file():
            check_makemore(file.read_bytes(), str(file))
            return file
    content = fetch(MAKEMORE_URL, f"no names.txt in {DATA_DIR_VARIABLE}={local or ''} nor in {cached.parent}")
    check_makemore(content, MAKEMORE_URL)
    try:
        write_atomically(cached, content)
    except OSError as error:
        raise UserError(f"data=makemore cannot be cached in {cached.parent}: {error.strerror}") from error
    return cached


def check_makemore(content: bytes, origin: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != MAKEMORE_SHA256:
        raise UserError(f"data=makemore: {origin} has SHA-256 {found}, not that of the reference, {MAKEMORE_SHA256}")


def fetch(url: str, why: str) -> bytes:
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:  # urllib's own errors are OSErrors
        reason = getattr(error, "reason", error)
        raise UserError(f"data=makemore: {why}, and {url} cannot be fetched: {reason}") from error
