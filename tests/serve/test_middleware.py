"""The Host check, CORS, keys that are not ASCII, HEAD requests, and the `param` of OpenAI-compatible errors."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi_offline", reason="task=serve needs the extra [serve]")

from fastapi.testclient import TestClient
from test_server import JSON_TYPE, service

from microgpt.serve.app import build_app

Connect = Callable[..., TestClient]
ORIGIN = "https://lesson.example"


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Return a client of a server with the given keys of `serve`."""
    clients: list[TestClient] = []

    def make(**config: Any) -> TestClient:
        client = TestClient(build_app(service(tmp_path / str(len(clients)), **config)), base_url="http://localhost")
        clients.append(client.__enter__())
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def status(client: TestClient, host: str, path: str = "/health") -> int:
    return client.get(path, headers={"Host": host}).status_code


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models", "/microgpt/v1/model", "/nothing"])
def test_a_page_that_rebinds_its_name_to_this_machine_gets_nothing(connect: Connect, path: str) -> None:
    answer = connect().get(path, headers={"Host": "evil.example"})
    assert answer.status_code == 403
    assert "serve.allowed_hosts" in answer.text


def test_local_names_and_addresses_are_allowed(connect: Connect) -> None:
    client = connect()
    for host in ("localhost:8080", "LOCALHOST", "a.localhost", "127.0.0.1:8080", "127.8.8.8", "[::1]:8080"):
        assert status(client, host) == 200, host
    for host in (
        "192.168.1.5:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[::2]",
        "evil.example:80",
    ):
        assert status(client, host) == 403, host


def test_a_key_and_allowed_hosts_lift_the_host_check(connect: Connect) -> None:
    assert status(connect(api_key="s3cret"), "evil.example") == 200
    assert status(connect(allowed_hosts=["Class.example"]), "class.example:8080") == 200
    assert status(connect(allowed_hosts=["class.example"]), "evil.example") == 403
    assert status(connect(allowed_hosts=["*"]), "evil.example") == 200


def test_beyond_loopback_every_address_is_allowed_and_a_name_only_if_it_is_serve_host(connect: Connect) -> None:
    everywhere = connect(host="0.0.0.0")
    assert [status(everywhere, host) for host in ("192.168.1.5:8080", "[fe80::1]", "evil.example")] == [200, 200, 403]
    assert status(connect(host="lab.example"), "lab.example:8080") == 200


def test_pages_of_other_origins_may_call_only_if_cors_is_on(connect: Connect) -> None:
    preflight = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    closed = connect().options("/microgpt/v1/generate", headers=preflight)
    assert closed.status_code == 405
    assert "access-control-allow-origin" not in closed.headers
    client = connect(cors_origins=[ORIGIN], api_key="s3cret")
    opened = client.options("/microgpt/v1/generate", headers=preflight)
    assert (opened.status_code, opened.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert (
        "access-control-allow-origin" not in client.get("/health", headers={"Origin": "https://evil.example"}).headers
    )


def test_a_key_is_compared_as_bytes_in_utf_8_and_latin_1(connect: Connect) -> None:
    client = connect(api_key="sécret")
    statuses = [
        client.get("/v1/models", headers={b"Authorization": b"Bearer " + key}).status_code
        for key in ("sécret".encode(), "sécret".encode("latin-1"), b"secret", b"s?cret")
    ]
    assert statuses == [200, 200, 401, 401]
    greek = connect(api_key="κλειδί")
    sent = [
        greek.get("/v1/models", headers={b"Authorization": b"Bearer " + key}) for key in ("κλειδί".encode(), b"??????")
    ]
    assert [answer.status_code for answer in sent] == [200, 401]


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/v1/models", "/v1/models/gpt", "/microgpt/v1/model"])
def test_head_is_answered_where_get_is(connect: Connect, path: str) -> None:
    client = connect()
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]
    assert (head.content, bool(get.content)) == (b"", True)


def test_head_routes_are_not_in_the_openapi_document(connect: Connect) -> None:
    paths = connect().get("/openapi.json").json()["paths"]
    assert {method for path in paths.values() for method in path} == {"get", "post"}


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"stop": ["a"] * 5}, "stop", "it must have at most 4 stop sequences"),
        ({"stop": 3}, "stop", "it must be a string or an array of stop sequences"),
        ({"stop": ["a", 3]}, "stop", "it must be a string or an array of stop sequences"),
        ({"prompt": []}, "prompt", "it must have 1 or more prompts"),
        ({"prompt": None}, "prompt", "it must be a string or an array of prompts"),
        ({"prompt": [1, 2]}, "prompt", "it must be a string or an array of prompts"),
        ({"prompt": ["a"] * 17}, "prompt", "at most 16 prompts"),
        ({"prompt": "!"}, "prompt", "characters that the model does not know"),
        ({"max_tokens": 100_000}, "max_tokens", "at most 1024"),
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"top_p": 0.5}, "top_p", "not supported"),
        ({"beam": 4}, "beam", "not a key of this request"),
    ],
    ids=str,
)
def test_an_error_names_the_key_at_fault(connect: Connect, body: dict[str, Any], param: str, message: str) -> None:
    answer = connect().post("/v1/completions", json={"model": "gpt", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert message in error["message"]
    assert "valid string" not in error["message"]


@pytest.mark.parametrize("content", [None, 3, [{"type": "image_url"}], ["text"]], ids=str)
def test_the_content_of_a_message_is_text_or_text_parts(connect: Connect, content: Any) -> None:
    messages = [{"role": "user", "content": content}]
    answer = connect(chat=True).post("/v1/chat/completions", json={"model": "gpt", "messages": messages})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "messages[0].content")
    assert "it must be a string or an array of text parts" in error["message"]


def test_max_tokens_0_gives_the_prompt_without_a_text(connect: Connect) -> None:
    client, body = connect(), {"model": "gpt", "prompt": ["ab", "a"], "max_tokens": 0, "echo": True}
    whole = client.post("/v1/completions", json=body).json()
    assert [(one["text"], one["finish_reason"]) for one in whole["choices"]] == [("ab", "length"), ("a", "length")]
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
    streamed = client.post("/v1/completions", json={**body, "stream": True}).text
    assert streamed.count('"finish_reason":"length"') == 2
    assert streamed.endswith("data: [DONE]\n\n")
    chat = connect(chat=True).post(
        "/v1/chat/completions", json={"model": "gpt", "messages": [{"role": "user", "content": "a"}], "max_tokens": 0}
    )
    assert (chat.status_code, chat.json()["error"]["param"]) == (400, "max_tokens")


def test_top_k_is_an_extension_of_the_openai_routes(connect: Connect) -> None:
    client = connect()
    texts = [
        client.post("/v1/completions", json={"model": "gpt", "prompt": "a", "seed": 3, **sampling}).json()["choices"][0]
        for sampling in ({"temperature": 0}, {"temperature": 1.0, "top_k": 1}, {"temperature": 1.0})
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_request_without_json_is_refused_before_its_key_is_read(connect: Connect) -> None:
    answer = connect().post("/v1/completions", content=b"{", headers=JSON_TYPE)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, None)
