"""Data sources: the embedded names, chat and Alice; the reference names.txt (local, cached or downloaded); any file."""

import codecs
import gzip
import hashlib
import os
import stat
from collections.abc import Callable
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
    """A text, with the name and the SHA-256 that identify it in a run's record."""

    name: str  # names | makemore | text | chat | alice
    origin: str  # where the text comes from, for error messages
    sha256: str
    text: str


def read_source(name: str, path: str | None) -> Source:
    """Return the text of a data set. Raises UserError for a file that is missing, empty or not UTF-8."""
    if name not in SOURCES:
        raise UserError(f"data.name={name} is not allowed: data.name is one of {', '.join(SOURCES)}")
    origin, content = SOURCES[name].read(path)
    return decode_source(name, origin, content)


def read_names(path: str | None) -> tuple[str, bytes]:
    return "the embedded names", (files("microgpt.data") / "names.txt").read_bytes()


def read_makemore(path: str | None) -> tuple[str, bytes]:
    file = makemore_file()
    return str(file), file.read_bytes()


def read_text(path: str | None) -> tuple[str, bytes]:
    assert path is not None, "checked in config/validation.py"
    origin = f"data.path={path}"
    try:
        mode = Path(path).stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a named pipe would wait for its writer
            raise UserError(f"{origin} is a pipe or a device: it must be a regular file, which can be read again")
        return origin, Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"data.path={path} cannot be read: {error.strerror}") from error


def read_chat(path: str | None) -> tuple[str, bytes]:
    if path is not None:
        return read_text(path)
    return "the embedded chat", gzip.decompress((files("microgpt.data") / "chat.jsonl.gz").read_bytes())


def read_alice(path: str | None) -> tuple[str, bytes]:
    return "the embedded Alice", gzip.decompress((files("microgpt.data") / "alice.txt.gz").read_bytes())


@dataclass(frozen=True)
class SourceChoice:
    """How a data set is read, and the keys of `data` that it uses besides name, val_fraction and split_seed."""

    read: Callable[[str | None], tuple[str, bytes]]  # from data.path to (origin, content)
    keys: tuple[str, ...] = ("long_documents",)
    needs_path: bool = False
    mixes_styles: bool = True  # whether the documents of a style can be added


# All allowed values of data.name.
SOURCES = {
    "names": SourceChoice(read_names),
    "makemore": SourceChoice(read_makemore),
    "text": SourceChoice(read_text, ("path", "format", "long_documents"), needs_path=True),
    "chat": SourceChoice(read_chat, ("path", "loss_on"), mixes_styles=False),
    "alice": SourceChoice(read_alice, ("format", "long_documents")),
}


def decode_source(name: str, origin: str, content: bytes) -> Source:
    if encoding := utf_16(content):
        raise UserError(f"{origin} is {encoding} text: convert it to UTF-8, for example: iconv -f {encoding} -t UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{origin} is not UTF-8 text: byte 0x{content[error.start]:02x} at offset {error.start}"
        ) from error
    if not text.strip():
        raise UserError(f"{origin} is empty: a data set needs at least one line of text")
    return Source(name, origin, hashlib.sha256(content).hexdigest(), text)


def utf_16(content: bytes) -> str | None:
    """Return the name of the UTF-16 encoding of a text, or None if it is not UTF-16.

    Without a byte order mark, a text is taken for UTF-16 if more than half of the bytes at even or at odd offsets are
    control characters: 0x00 for Latin letters, 0x04 for Cyrillic letters. Decoding as UTF-8 would accept these bytes.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    controls = bytes(byte for byte in range(32) if chr(byte) not in "\t\n\v\f\r")
    for name, half in (("UTF-16LE", content[1::2]), ("UTF-16BE", content[::2])):
        if len(content) % 2 == 0 and 2 * len(half.translate(None, controls)) < len(half):
            return name
    return None


def cache_dir() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("microgpt")


def makemore_file() -> Path:
    """Return the path of the reference names.txt and verify its SHA-256.

    The file is searched for in MICROGPT_DATA_DIR, then in the cache; otherwise it is downloaded to the cache.
    """
    local = os.environ.get(DATA_DIR_VARIABLE)
    candidates = [Path(local) / "names.txt"] if local else []
    cached = cache_dir() / "names.txt"
    for file in [*candidates, cached]:
        if file.is_file():
            check_makemore(file.read_bytes(), str(file))
            return file
    content = fetch(MAKEMORE_URL, f"no names.txt in {DATA_DIR_VARIABLE}={local or ''} or in {cached.parent}")
    check_makemore(content, MAKEMORE_URL)
    try:
        write_atomically(cached, content)
    except OSError as error:
        raise UserError(f"data=makemore cannot be cached in {cached.parent}: {error.strerror}") from error
    return cached


def check_makemore(content: bytes, origin: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != MAKEMORE_SHA256:
        raise UserError(f"data=makemore: {origin} has SHA-256 {found}, expected {MAKEMORE_SHA256}")


def fetch(url: str, why: str) -> bytes:
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:  # urllib's own errors are OSErrors
        reason = getattr(error, "reason", error)
        raise UserError(f"data=makemore: {why}, and {url} cannot be fetched: {reason}") from error
