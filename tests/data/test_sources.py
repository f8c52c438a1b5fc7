"""Where texts come from. Nothing here leaves the machine: what is fetched comes from a server on loopback."""

import codecs
import hashlib
import http.server
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from microgpt.data import sources
from microgpt.data.sources import makemore_file, read_source
from microgpt.errors import UserError

CONTENT = b"emma\nolivia\nava\n"


def text_file(folder: Path, content: bytes) -> str:
    file = folder / "input.txt"
    file.write_bytes(content)
    return str(file)


# Any file


def test_a_text_is_read_with_its_hash(tmp_path):
    source = read_source("text", text_file(tmp_path, "zoë\nréné\n".encode()))
    assert source.text == "zoë\nréné\n"
    assert source.sha256 == hashlib.sha256("zoë\nréné\n".encode()).hexdigest()
    assert source.name == "text"


def test_a_missing_file_is_named(tmp_path):
    path = str(tmp_path / "nowhere.txt")
    with pytest.raises(UserError) as caught:
        read_source("text", path)
    assert str(caught.value) == f"data.path={path} cannot be read: No such file or directory"


def test_a_folder_in_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_source("text", str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \t\r\n", codecs.BOM_UTF8, codecs.BOM_UTF8 + b"\n"])
def test_a_file_without_text_is_refused(tmp_path, content):
    path = text_file(tmp_path, content)
    with pytest.raises(UserError, match="is empty") as caught:
        read_source("text", path)
    assert path in str(caught.value)


def test_what_is_not_utf8_is_refused_with_the_place(tmp_path):
    with pytest.raises(UserError, match="is not UTF-8 text: byte 0xeb at offset 2"):
        read_source("text", text_file(tmp_path, "zoë\n".encode("latin-1")))


@pytest.mark.parametrize("text", ["emma\nolivia\n", "Анна\nБорис\n", "Άννα\n", "zoë\n"])
@pytest.mark.parametrize(("name", "mark"), [
    ("UTF-16LE", b""), ("UTF-16BE", b""), ("UTF-16", codecs.BOM_UTF16_LE), ("UTF-16", codecs.BOM_UTF16_BE),
])  # fmt: skip
def test_utf16_is_refused_with_the_command_that_converts_it(tmp_path, text, name, mark):
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(mark, name)
    path = text_file(tmp_path, mark + text.encode(encoding))
    with pytest.raises(UserError) as caught:
        read_source("text", path)
    command = f"convert it to UTF-8, for example: iconv -f {name} -t UTF-8"
    assert str(caught.value) == f"data.path={path} is {name} text: {command}"
    if shutil.which("iconv"):
        converted = subprocess.run(["iconv", "-f", name, "-t", "UTF-8", path], capture_output=True, check=True).stdout
        assert converted == text.encode()


@pytest.mark.parametrize("text", ["a\x00b\x1b[31mred\x07\n", "\x00b\n", "\t\n\r\n x\n", "日本語\n", "ab"])
def test_text_with_some_control_characters_is_not_taken_for_utf16(tmp_path, text):
    assert read_source("text", text_file(tmp_path, text.encode())).text == text


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipe_is_refused_instead_of_waited_for(tmp_path, kind):
    path = tmp_path / "pipe"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=f"data.path={path} is a pipe or a device"):
        read_source("text", str(path))


def test_a_byte_order_mark_is_no_character_of_the_text(tmp_path):
    source = read_source("text", text_file(tmp_path, codecs.BOM_UTF8 + CONTENT))
    assert source.text == CONTENT.decode()
    assert source.sha256 == hashlib.sha256(codecs.BOM_UTF8 + CONTENT).hexdigest()


def test_the_embedded_names_need_neither_network_nor_cache(monkeypatch):
    def no_network(*_: object) -> bytes:
        pytest.fail("data=names asked for a file from elsewhere")

    monkeypatch.setattr(sources, "fetch", no_network)
    monkeypatch.setattr(sources, "cache_dir", no_network)
    assert read_source("names", None).text.startswith("emma\n")


# The reference names


def test_the_local_copy_of_the_reference_is_accepted():
    folder = os.environ.get("MICROGPT_DATA_DIR")
    if not folder or not (Path(folder) / "names.txt").is_file():
        pytest.skip("MICROGPT_DATA_DIR has no names.txt: the reference data set is not on this machine")
    source = read_source("makemore", None)
    assert source.sha256 == "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
    assert source.origin == str(Path(folder) / "names.txt")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, no local copy, no proxy, and CONTENT in place of the reference."""
    folder = tmp_path / "cache" / "microgpt"
    monkeypatch.setattr(sources, "cache_dir", lambda: folder)
    monkeypatch.setattr(sources, "MAKEMORE_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.delenv(sources.DATA_DIR_VARIABLE, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    return folder


class Server(http.server.ThreadingHTTPServer):
    body: bytes = CONTENT
    status: int = 200
    stated_length: int | None = None
    requests: int = 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.stated_length or len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        monkeypatch.setattr(sources, "MAKEMORE_URL", f"http://127.0.0.1:{running.server_port}/names.txt")
        yield running
        running.shutdown()
        thread.join()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_reference_is_fetched_once_and_cached(cache, server):
    assert read_source("makemore", None).text == CONTENT.decode()
    assert (cache / "names.txt").read_bytes() == CONTENT
    assert read_source("makemore", None).text == CONTENT.decode()
    assert server.requests == 1
    assert files_below(cache) == [cache / "names.txt"]


def test_the_cached_copy_needs_no_network(cache, monkeypatch):
    cache.mkdir(parents=True)
    (cache / "names.txt").write_bytes(CONTENT)
    monkeypatch.setattr(sources, "fetch", lambda *_: pytest.fail("fetched although cached"))
    assert makemore_file() == cache / "names.txt"


def test_a_local_copy_comes_before_the_cache(cache, tmp_path, monkeypatch):
    for folder in (cache, tmp_path / "local"):
        folder.mkdir(parents=True)
        (folder / "names.txt").write_bytes(CONTENT)
    monkeypatch.setenv(sources.DATA_DIR_VARIABLE, str(tmp_path / "local"))
    assert makemore_file() == tmp_path / "local" / "names.txt"


def test_a_local_folder_without_the_file_falls_back_to_the_cache(cache, tmp_path, monkeypatch, server):
    monkeypatch.setenv(sources.DATA_DIR_VARIABLE, str(tmp_path / "empty"))
    assert makemore_file() == cache / "names.txt"
    assert server.requests == 1


@pytest.mark.parametrize("place", ["local", "cached"])
def test_a_copy_with_another_hash_is_refused_and_left_alone(cache, tmp_path, monkeypatch, place):
    folder = cache if place == "cached" else tmp_path / "local"
    folder.mkdir(parents=True)
    (folder / "names.txt").write_bytes(CONTENT + b"mallory\n")
    if place == "local":
        monkeypatch.setenv(sources.DATA_DIR_VARIABLE, str(folder))
    with pytest.raises(UserError, match=r"has SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}") as caught:
        makemore_file()
    assert str(folder / "names.txt") in str(caught.value)
    assert (folder / "names.txt").read_bytes() == CONTENT + b"mallory\n"


def test_a_wrong_download_is_refused_and_leaves_no_file(cache, server):
    server.body = b"<html>sign in</html>"
    with pytest.raises(UserError, match=r"has SHA-256 [0-9a-f]{64}, expected"):
        makemore_file()
    assert files_below(cache.parent.parent) == []


def test_a_download_that_breaks_off_is_a_sentence_and_leaves_no_file(cache, server):
    server.stated_length = len(CONTENT) + 1000
    with pytest.raises(UserError, match="cannot be fetched"):
        makemore_file()
    assert files_below(cache.parent.parent) == []


def test_an_error_of_the_server_is_a_sentence_and_leaves_no_file(cache, server):
    server.status = 404
    with pytest.raises(UserError, match="cannot be fetched: Not Found"):
        makemore_file()
    assert files_below(cache.parent.parent) == []


def test_an_address_that_nobody_answers_is_one_sentence(cache, monkeypatch):
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(sources, "MAKEMORE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}/names.txt")
        with pytest.raises(UserError) as caught:
            makemore_file()
    message = str(caught.value)
    assert "\n" not in message
    assert sources.MAKEMORE_URL in message
    assert str(cache) in message
    assert "refused" in message
    assert files_below(cache.parent.parent) == []


def test_a_cache_that_cannot_be_written_is_a_sentence(cache, server):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"data=makemore cannot be cached in .*: Not a directory"):
        makemore_file()


def test_a_failed_write_to_the_cache_leaves_no_part_of_the_file(cache, server, monkeypatch):
    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match=r"cannot be cached in .*: No space left on device"):
        makemore_file()
    assert files_below(cache.parent.parent) == []
