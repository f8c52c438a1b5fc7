"""Requests that no client should send, drawn at random. Knows no server and no test."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

BODIES: dict[str, dict[str, Any]] = {
    "/microgpt/v1/generate": {"num_samples": 2, "temperature": 0.5, "seed": 1, "max_tokens": 5, "prompt": "an"},
    "/microgpt/v1/stream": {"prompt": "an", "temperature": 0.5, "seed": 1, "max_tokens": 5, "candidates": 3},
    "/microgpt/v1/chat": {"messages": [{"role": "user", "content": "hello"}], "temperature": 0.5, "seed": 1},
    "/microgpt/v1/attention": {"text": "anna"},
    "/v1/completions": {"model": "gpt", "prompt": "an", "max_tokens": 5, "n": 2, "stop": ["a"], "stream": False},
    "/v1/chat/completions": {"model": "gpt", "messages": [{"role": "user", "content": "hello"}], "stream": True},
}
PATHS = sorted(BODIES)
ELSEWHERE = (
    "/", "/health", "/metrics", "/docs", "/openapi.json", "/v1", "/v1/", "/v1/models", "/v1/models/gp", "/v2/models",
    "/microgpt", "/microgpt/v1/model", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page.css/..%2findex.html",
    "/%00", "/%ff%fe", "//health", "/health?x=%00", "/v1/models/" + "%F0%9F%98%80" * 50, "/" + "a" * 5000, "*",
    "http://[::1/health", "/v1/models/%ED%A0%80",
)  # fmt: skip
METHODS = ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT")
NO_METHODS = ("BREW", "post", "P" * 300)  # of which no HTTP parser knows what follows
# Values as they stand in JSON, or would if it had them.
VALUES = (
    "null", "true", "false", "0", "-1", "1", "-0.0", "0.1", "1e-400", "1e308", "1e999", "-1e999", "1" + "0" * 4000,
    "-" + "9" * 6000, "0." + "1" * 5000, "1E+5000", "18446744073709551616", "9223372036854775808", "NaN", "Infinity",
    "-Infinity", "1.0", "01", "0x10", "1_000", '""', '"a"', '"1"', '"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"☃é"',
    '"\U0001f600"', '"a\\u202eb"', json.dumps("a" * 5000), json.dumps("ä" * 3000), "[]", "{}", "[[]]", "[null]",
    '["a","b"]', '["","","","",""]', '{"":""}', '{"role":"user"}', '[{"role":"system","content":"a"}]',
    '[{"role":"user","content":null}]', '[{"role":"user","content":"\\ud800"}]', '{"a":1,"a":2}', "[" * 200 + "]" * 200,
    '[{"role":"assistant","content":"a"}]', '[{"type":"text","text":"a"}]', json.dumps(["an"] * 17), "'a'", "undefined",
)  # fmt: skip
KEYS = (
    "prompt", "messages", "seed", "max_tokens", "temperature", "num_samples", "n", "stop", "stream", "logit_bias",
    "top_p", "top_k", "stream_options", "model", "text", "candidates", "tools", "response_format", "\ud800", "",
    "a" * 999, "__class__", "☃",
)  # fmt: skip
TYPES = (
    b"application/json", b"application/json; charset=utf-16", b"APPLICATION/JSON", b"text/plain", b"",
    b"application/xml",
    b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x", b"application/json\xff", b"a" * 3000,
)  # fmt: skip
NO_HTTP = (
    b"\r\n\r\n", b"\x00" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /health\r\n\r\n", b"hello\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x42" * 500,
    b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\nHost: localhost\n\n",
    b"GET / HTTP/1.1\r\nHost x\r\n\r\n", b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
    b"GET \xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\xef\xbb\xbfGET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nA\x00b: c\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n",
)  # fmt: skip


@dataclass(frozen=True)
class Wrong:
    """What is sent, and how the connection goes on: until the answer has come, or the client leaves before."""

    kind: str
    path: str
    pieces: Sequence[bytes]
    method: str = "POST"
    then: str = "read"  # read | end: nothing more will come | leave: without reading | reset: after some bytes


def head(path: str, *, method: str = "POST", type: bytes = b"application/json", more: Sequence[bytes] = ()) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1".encode(),
        b"Host: localhost",
        b"Connection: close",
        b"Content-Type: " + type,
        *more,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(kind: str, path: str, body: bytes, then: str = "read") -> Wrong:
    return Wrong(kind, path, [head(path, more=[b"Content-Length: %d" % len(body)]), body], then=then)


def body_of(path: str) -> bytes:
    return json.dumps(BODIES[path]).encode()


def wrong_value(rng: random.Random, path: str) -> Wrong:
    """JSON, or nearly, whose keys have been changed, left out or added."""
    pairs = [(json.dumps(key), json.dumps(value)) for key, value in BODIES[path].items()]
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(pairs)) if pairs else 0
        match rng.randrange(4):
            case 0 | 1 if pairs:
                pairs[place] = (pairs[place][0], rng.choice(VALUES))
            case 2 if pairs:
                del pairs[place]
            case _:
                pairs.append((json.dumps(rng.choice(KEYS)), rng.choice(VALUES)))
    body = "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
    return post("value", path, body.encode())


def wrong_json(rng: random.Random, path: str) -> Wrong:
    """A body that is no object, or no JSON, or no text."""
    whole = body_of(path)
    cut = rng.randrange(len(whole))
    deep = rng.choice(("[", '{"a":', '{"prompt":[', '["')) * rng.choice((500, 5_000, 100_000))
    bodies: tuple[bytes, ...] = (
        rng.choice(VALUES).encode(), whole[:cut], whole[:cut] + rng.randbytes(3) + whole[cut:], rng.randbytes(cut),
        deep.encode(), whole.decode().encode("utf-16"), b"\xef\xbb\xbf" + whole, whole + whole, b"", b" " * 5000,
        whole.replace(b"an", b"a\xc3"), whole.replace(b"}", b",}"), b'"' + b"\\" * 9999, b"[" + b"1," * 50_000 + b"1]",
    )  # fmt: skip
    return post("json", path, rng.choice(bodies))


def wrong_head(rng: random.Random, path: str) -> Wrong:
    """A wrong method, path or content type, or too many headers."""
    body = body_of(path)
    length = b"Content-Length: %d" % len(body)
    match rng.randrange(4):
        case 0:
            return Wrong("type", path, [head(path, type=rng.choice(TYPES), more=[length]), body])
        case 1:
            method = rng.choice(METHODS + NO_METHODS)
            return Wrong(
                "method" if method in METHODS else "no method",
                path,
                [head(path, method=method, more=[length]), body],
                method,
            )
        case 2:
            path = rng.choice(ELSEWHERE)
            return Wrong("path", path, [head(path, more=[length]), body])
    bomb = rng.choice(
        ([b"A: " + b"b" * 200_000], [b"A%d: b" % n for n in range(20_000)], [b"a" * 100_000 + b": b"],
         [b"A: \x01\x7f\xff"],
         [b"Authorization: Bearer " + b"\xff" * 1000], [b"Cookie: " + b"a=b;" * 9000], [b"Accept: " + b"*," * 5000])
    )  # fmt: skip
    return Wrong("headers", path, [head(path, more=[length, *bomb]), body])


def wrong_length(rng: random.Random, path: str) -> Wrong:
    """A length that lies, chunks that are none, a client that says nothing more."""
    body = body_of(path)
    lengths = (
        b"-1",
        b"1e3",
        b"0x10",
        b"9" * 5000,
        b"\xb2",
        b"",
        b"3, 4",
        b"%d" % (len(body) + 50),
        b"%d" % (len(body) // 2),
    )
    chunked = b"Transfer-Encoding: chunked"
    chunks = (
        b"zz\r\n",
        b"-1\r\n",
        b"f" * 30 + b"\r\n",
        b"5\r\nab",
        b"5\r\nabcdefgh\r\n0\r\n\r\n",
        b"0\r\n\r\n",
        b"\r\n" * 50,
    )
    match rng.randrange(5):
        case 0:
            return Wrong(
                "length", path, [head(path, more=[b"Content-Length: " + rng.choice(lengths)]), body], then="end"
            )
        case 1:
            return Wrong("chunks", path, [head(path, more=[chunked]), rng.choice(chunks)], then="end")
        case 2:
            both = [chunked, b"Content-Length: %d" % len(body)]
            return Wrong("both lengths", path, [head(path, more=both), b"%x\r\n" % len(body), body, b"\r\n0\r\n\r\n"])
        case 3:
            odd = rng.choice(
                (b"Transfer-Encoding: gzip", b"Content-Encoding: gzip", b"Expect: 100-continue", b"Expect: x")
            )
            return Wrong("odd", path, [head(path, more=[odd, b"Content-Length: %d" % len(body)]), body])
    whole = head(path, more=[b"Content-Length: %d" % len(body)]) + body
    return Wrong("truncated", path, [whole[: rng.randrange(len(whole))]], then="end")


def no_http(rng: random.Random, path: str) -> Wrong:
    said = rng.choice((*NO_HTTP, rng.randbytes(200) + b"\r\n\r\n", b"\x00" * 100_000))
    return Wrong("no HTTP", "", [said], method="GET", then="end")


def leaving(rng: random.Random, path: str) -> Wrong:
    """What is asked for is right, but nobody waits for all of it."""
    texts = {"num_samples": 20} if path.endswith("generate") else {}
    body = json.dumps({**BODIES[path], **texts}).encode()
    return post("leaving", path, body, then=rng.choice(("leave", "reset")))


def large(rng: random.Random, path: str) -> Wrong:
    """20 MB, announced or not."""
    piece = rng.choice((b" ", b"[", b"a", b'"', b"1")) * 100_000
    if rng.randrange(2):
        return Wrong("20 MB", path, [head(path, more=[b"Content-Length: 20000000"]), *[piece] * 200])
    chunk = b"%x\r\n" % len(piece) + piece + b"\r\n"
    return Wrong(
        "20 MB in chunks", path, [head(path, more=[b"Transfer-Encoding: chunked"]), *[chunk] * 200, b"0\r\n\r\n"]
    )


KINDS: dict[Callable[[random.Random, str], Wrong], int] = {
    wrong_value: 50, wrong_json: 20, wrong_head: 10, wrong_length: 10, no_http: 5, leaving: 5,
}  # fmt: skip


def wrong_request(rng: random.Random) -> Wrong:
    (kind,) = rng.choices(list(KINDS), weights=list(KINDS.values()))
    return kind(rng, rng.choice(PATHS))
