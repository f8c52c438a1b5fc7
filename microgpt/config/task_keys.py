"""The keys of the tasks that do not train: export, serve, benchmark and explain. They do not affect a run."""

# ruff: noqa: RUF009 (`key` returns dataclass fields)
from dataclasses import dataclass

from microgpt.config.choices import EXPLAIN_FORMATS, EXPORT_FORMATS
from microgpt.config.keys import key
from microgpt.engines.options import BACKENDS

ENGINES = [name for name in BACKENDS if name != "auto"]


def is_bearer_token(text: str) -> bool:
    return bool(text) and all(33 <= ord(char) <= 126 for char in text)


@dataclass(frozen=True)
class ExportConfig:
    format: str = key("safetensors", one_of=EXPORT_FORMATS)
    half: bool = key(False, "safetensors: float16 instead of float32, half the size")
    path: str | None = key(
        None, "folder to write, or file for html; null: one in exports/ named after the checkpoint", holds=bool,
        allowed="it must be a folder, a file for html, or null",
    )  # fmt: skip


@dataclass(frozen=True)
class ServeConfig:
    host: str = key(
        "127.0.0.1", "address to listen on; 0.0.0.0: every interface", holds=bool,
        allowed="it must be an address or a name of this machine",
    )  # fmt: skip
    port: int = key(8080, "0: any free port", at_least=0, at_most=65535)
    api_key: str | None = key(
        None, "key that clients send as `Authorization: Bearer <key>`; null: the variable MICROGPT_API_KEY, if set",
        holds=is_bearer_token, allowed="a key must be one or more printable ASCII characters without spaces",
        secret=True,
    )  # fmt: skip
    max_active: int = key(64, "maximum number of requests to generate for at the same time", at_least=1)
    max_queue: int = key(256, "maximum number of waiting requests; further requests get a 429", at_least=0)
    max_body_bytes: int = key(1_000_000, "maximum size of a request body", at_least=1)
    max_new_tokens: int = key(1024, "maximum number of tokens that a request may ask for", at_least=1)
    timeout: float = key(60.0, "maximum seconds from a request's arrival to the end of its response; then 503", above=0)
    allowed_hosts: list[str] = key(
        [], "allowed Host headers besides local names and serve.host; not checked if serve.api_key is set", new=True
    )
    cors_origins: list[str] = key(
        [], "origins of web pages that may call the server, such as https://a.example", new=True
    )
    drain: float = key(30.0, "seconds that running requests have to finish after SIGTERM", at_least=0)


@dataclass(frozen=True)
class BenchmarkConfig:
    engines: list[str] = key(ENGINES, one_of=ENGINES)
    widths: list[int] = key([16, 64], "n_embd of the models to train and sample from", at_least=4)
    repeats: int = key(3, "number of measurements per figure", at_least=1)
    seconds: float = key(0.2, "minimum duration of a measurement", above=0)


@dataclass(frozen=True)
class ExplainConfig:
    document: str | None = key(
        None, "document of the training step; null: the first training example", holds=bool,
        allowed="it must be a string of at least one character, or null", new=True,
    )  # fmt: skip
    format: str = key("text", one_of=EXPLAIN_FORMATS, new=True)
    path: str | None = key(
        None, "html, svg: file to write; null: explain.html, explain.svg", holds=bool,
        allowed="it must be a file or null", new=True,
    )  # fmt: skip
