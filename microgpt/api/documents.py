"""The documents of a run: your own, which are written to a file, and those on which its val_loss was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microgpt.api.model import Text, is_conversation, kind_of
from microgpt.api.overrides import keys_of, written
from microgpt.atomic import write_atomically
from microgpt.config.schema import Config, DataConfig
from microgpt.errors import UserError, place_of

if TYPE_CHECKING:
    from microgpt.runs.record import RunRecord

FOLDER = "documents"  # in outputs_dir
CHOOSING = ("data", "data.name", "data.path")  # keys that choose the data


@contextmanager
def written_documents(documents: Iterable[Text] | None, overrides: Sequence[str]) -> Iterator[list[str]]:
    """Write the documents to a file in outputs_dir, and yield all overrides, with those that choose the file.

    The file is named by the hash of its content, so that the same call resumes a run. After a user error, a new file is
    removed. Raises UserError for other documents than strings or conversations, and for overrides that choose the data.
    """
    if documents is None:
        yield list(overrides)
        return
    for override, key in zip(overrides, keys_of(overrides), strict=True):
        if key in CHOOSING:
            raise UserError(f"{override} is not allowed: the argument documents is the data")
    from microgpt.api.program import compose

    name, content = encoded(documents)
    folders = [override for override, key in zip(overrides, keys_of(overrides), strict=True) if key == "outputs_dir"]
    folder = Path(compose(folders)[0].outputs_dir if folders else Config.outputs_dir) / FOLDER
    ending = {"text": "txt", "chat": "jsonl"}[name]
    path = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.{ending}"
    is_new = not path.exists()
    try:
        if is_new or path.read_bytes() != content:
            write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{place_of(error, str(path))} cannot be written: {error.strerror}") from None
    try:
        yield [f"data={name}", f"data.path={written(str(path))}", *overrides]
    except UserError as error:
        if is_new:
            path.unlink()
            with suppress(OSError):  # a folder is not empty
                for empty in (folder, folder.parent):
                    empty.rmdir()
        sentence = str(error).replace(f"data.path={path}", "documents")
        raise (error if sentence == str(error) else UserError(sentence)) from None


def encoded(documents: Iterable[Text]) -> tuple[str, bytes]:
    """Return the name of the data set and the content of its file, with one document a line."""
    if isinstance(documents, str | bytes) or not isinstance(documents, Iterable):
        raise UserError(f"documents must be a list of strings or of conversations, not {kind_of(documents)}")
    found: list[Any] = list(documents)
    is_chat = bool(found) and all(is_conversation(one) for one in found)
    for number, one in enumerate(() if is_chat else found):
        if not isinstance(one, str):
            raise UserError(f"documents[{number}] must be a string, not {kind_of(one)}")
        if "\n" in one or "\r" in one:
            raise UserError(
                f"documents[{number}] has a line break, but a document is one line; write a running text to a file: "
                "data=text data.path=<file> data.format=stream"
            )
    try:
        lines = [json.dumps([dict(message) for message in one]) for one in found] if is_chat else found
        content = "".join(f"{line}\n" for line in lines).encode()
    except (TypeError, UnicodeEncodeError) as error:
        raise UserError(f"documents are not text: {error}") from None
    if not content.strip():
        raise UserError("documents is empty: a data set needs at least one document")
    return "chat" if is_chat else "text", content


def validation_documents(record: RunRecord) -> list[Text]:
    """See `Run.validation_documents`."""
    from microgpt.data.conversations import parse_conversations
    from microgpt.data.corpus import read_documents, split
    from microgpt.data.sources import read_source

    if record.data is None:
        raise UserError(f"the run {record.run_id} has no data: its status is {record.status}")
    known = {field.name for field in fields(DataConfig)}
    data = DataConfig(**{key: value for key, value in record.config["data"].items() if key in known})
    source = read_source(data.name, data.path)
    if source.sha256 != record.data.sha256:
        raise UserError(f"{source.origin} has changed since the run: its SHA-256 is {source.sha256}")
    last = record.config["train"].get("eval_documents")
    if data.name != "chat":
        documents = read_documents(source, data.format, record.config["model"]["block_size"])
        return [*split(documents, data.val_fraction, data.split_seed)[1][:last]]
    conversations = parse_conversations(source.text, source.origin).conversations
    val = split(conversations, data.val_fraction, data.split_seed)[1][:last]
    return [[{"role": turn.role, "content": turn.content} for turn in one] for one in val]
