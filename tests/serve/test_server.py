"""The server's parts and routes in this process: samples, responses, errors and metrics."""

import asyncio
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi_offline", reason="task=serve needs the extra [serve]")
from fastapi.testclient import TestClient

from microgpt.config.task_keys import ServeConfig
from microgpt.data.conversations import USER, Turn, encode_prompt_turns
from microgpt.data.tokenizer import CHAT_SPECIAL, Tokenizer
from microgpt.engines import make_engine
from microgpt.engines.base import EngineState
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.options import EngineOptions
from microgpt.errors import UserError
from microgpt.inference.generation import Continuation, generate
from microgpt.inference.loading import TrainedModel
from microgpt.inference.sampling import SamplingPolicy
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import Checkpoint
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.serve.app import build_app
from microgpt.serve.errors import QueueFullError
from microgpt.serve.generation import GenerationRequest
from microgpt.serve.generation_queue import GenerationQueue
from microgpt.serve.service import Service
from microgpt.serve.stop_sequences import StopSequences

CHARS = list(" abcdefgh")
JSON_TYPE = {"content-type": "application/json"}


def trained(path: Path, *, chat: bool = False, backend: str = "python", block_size: int = 24) -> TrainedModel:
    """Return a model with random weights, as if loaded from a checkpoint."""
    tokenizer = Tokenizer(CHARS, CHAT_SPECIAL if chat else ())
    spec = ModelSpec(
        "gpt", vocab_size=tokenizer.vocab_size, n_embd=6, n_head=2, n_layer=1, block_size=block_size, init_std=0.08
    )
    rng = np.random.default_rng(3)
    state = EngineState({name: rng.normal(0, 0.6, (1, *shape)) for name, shape in spec.shapes().items()})
    meta = Meta(spec, CHARS, special=CHAT_SPECIAL if chat else (), style={"name": "classic"})
    path.mkdir(parents=True, exist_ok=True)
    (path / "meta.json").write_text("{}")
    engine = make_engine(EngineOptions(backend, threads=1), spec, OptimizerSpec("sgd"), None, state)
    return TrainedModel(Checkpoint(path, meta, state, Progress(step=7, seed=5)), tokenizer, engine, SamplingPolicy())


def service(path: Path, *, chat: bool = False, api_key: str | None = None, **config: Any) -> Service:
    return Service(trained(path, chat=chat), ServeConfig(**config), api_key)


@pytest.fixture
def text_client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(
        base_url="http://localhost", app=build_app(service(tmp_path / "run" / "checkpoint" / "step_7"))
    ) as client:
        yield client


@pytest.fixture
def chat_client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(
        base_url="http://localhost", app=build_app(service(tmp_path / "run" / "checkpoint" / "step_7", chat=True))
    ) as client:
        yield client


def events(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


# StopSequences


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_a_stopped_text_is_all_that_comes_before_the_first_stop_to_be_complete(text: str, stops: list[str]) -> None:
    filtered, shown, stopped = StopSequences(stops), "", False
    for char in text:
        piece, stopped = filtered.add(char)
        shown += piece
        if stopped:
            break
    else:
        shown += filtered.rest()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert stopped == bool(ends)
    if ends:
        met = max((stop for stop in stops if text[: min(ends)].endswith(stop)), key=len)
        assert shown == text[: min(ends) - len(met)]
    else:
        assert shown == text


def test_what_may_begin_a_stop_is_not_shown_before_it_is_known() -> None:
    filtered = StopSequences(["abc"])
    assert [filtered.add(char) for char in "xabab"] == [
        ("x", False),
        ("", False),
        ("", False),
        ("ab", False),
        ("", False),
    ]
    assert filtered.add("c") == ("", True)


# The queue


def generated_by(queue: GenerationQueue, several: Sequence[GenerationRequest]) -> list[list[str]]:
    """Return the texts of requests that are generated at the same time."""

    async def one(body: GenerationRequest) -> list[str]:
        generation = queue.submit(body, 60)
        if not body.streaming:
            return [text.text for text in await generation.texts()]
        found = [""] * len(body.prompts)
        async for tokens in generation.tokens():
            for token in tokens:
                found[token.number] += token.text
        return found

    async def together() -> list[list[str]]:
        queue.start()
        found = await asyncio.gather(*map(one, several))
        queue.close()
        return list(found)

    return asyncio.run(together())


requests = st.lists(
    st.builds(
        GenerationRequest,
        prompts=st.lists(
            st.lists(st.integers(0, 8), max_size=8).map(lambda prompt: [9, *prompt]), min_size=1, max_size=3
        ),
        policy=st.builds(
            SamplingPolicy,
            temperature=st.sampled_from([0.0, 0.7, 2.0]),
            top_k=st.sampled_from([None, 2]),
            max_new_tokens=st.sampled_from([None, 1, 40]),
        ),
        seed=st.integers(0, 2**63 - 1),
        streaming=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("backend", ["native", "python"])
def test_requests_that_are_drawn_together_get_what_each_would_get_alone(tmp_path: Path, backend: str) -> None:
    model = trained(tmp_path, backend=backend, block_size=16)

    @given(requests, st.integers(1, 5))
    @settings(max_examples=25, deadline=None)
    def check(several: list[GenerationRequest], max_active: int) -> None:
        queue = GenerationQueue(model.engine, model.tokenizer, 16, max_active=max_active, max_queue=12)
        alone = []
        for body in several:
            rng = random.Random(body.seed)
            alone.append([
                generate(Continuation(model.tokenizer, 16, prompt, body.policy, rng), model.new_decoder).text
                for prompt in body.prompts
            ])  # fmt: skip
        assert generated_by(queue, several) == alone

    check()


def endless(seed: int = 0) -> GenerationRequest:
    return GenerationRequest([[9]] * 50, SamplingPolicy(temperature=1.0, max_new_tokens=10_000), seed, streaming=True)


def test_one_request_too_many_is_refused_and_a_cancelled_one_makes_room(tmp_path: Path) -> None:
    model = trained(tmp_path)

    async def scenario() -> None:
        queue = GenerationQueue(model.engine, model.tokenizer, 24, max_active=1, max_queue=1)
        queue.start()
        first = queue.submit(endless(), 30)
        await anext(first.tokens())  # it is under way
        second = queue.submit(endless(1), 30)
        with pytest.raises(QueueFullError):
            queue.submit(endless(2), 30)
        queue.cancel(second)
        third = queue.submit(endless(3), 30)
        queue.cancel(first)
        await anext(third.tokens())
        assert len(queue.active) == 1
        queue.close()

    asyncio.run(scenario())


def test_a_text_whose_logits_are_no_numbers_fails_alone_and_the_thread_goes_on(tmp_path: Path) -> None:
    model = trained(tmp_path)

    async def scenario() -> None:
        queue = GenerationQueue(model.engine, model.tokenizer, 24, max_active=2, max_queue=4)
        feed = queue.decoder.feed

        def broken(slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
            logits = feed(slots, positions, tokens)
            logits[[token == 1 for token in tokens]] = np.nan
            return logits

        queue.decoder.feed = broken
        queue.start()
        bad = queue.submit(GenerationRequest([[9, 1]], SamplingPolicy(), 1), 30)
        good = queue.submit(GenerationRequest([[9, 2]], SamplingPolicy(temperature=0.0, max_new_tokens=1), 1), 30)
        with pytest.raises(Exception, match="NaN or infinity"):
            await bad.texts()
        assert len(await good.texts()) == 1
        queue.close()

    asyncio.run(scenario())


def test_an_engine_that_fails_fails_its_requests_and_the_next_ones_are_served(tmp_path: Path) -> None:
    model = trained(tmp_path)

    async def scenario() -> None:
        queue = GenerationQueue(model.engine, model.tokenizer, 24, max_active=2, max_queue=4)
        feed, failing = queue.decoder.feed, [True]

        def sometimes(slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> np.ndarray:
            if failing.pop() if failing else False:
                raise RuntimeError("a bug")
            return feed(slots, positions, tokens)

        queue.decoder.feed = sometimes
        queue.start()
        with pytest.raises(RuntimeError, match="a bug"):
            await queue.submit(GenerationRequest([[9]], SamplingPolicy(), 1), 30).texts()
        assert await queue.submit(GenerationRequest([[9]], SamplingPolicy(), 1), 30).texts()
        assert len(queue.free) + len(queue.active) == 2
        queue.close()

    asyncio.run(scenario())


def test_a_model_with_weights_that_are_no_numbers_is_not_served(tmp_path: Path) -> None:
    broken = trained(tmp_path)
    broken.checkpoint.state.parameters["wte"][0, 0, 0] = np.nan
    with pytest.raises(UserError, match="contains non-finite weights"):
        Service(broken, ServeConfig(), None)


# Our own routes


def test_generate_draws_what_the_sample_task_draws(text_client: TestClient, tmp_path: Path) -> None:
    model, rng = trained(tmp_path), random.Random(11)
    prompt = [model.tokenizer.bos, *model.tokenizer.encode("ab")]
    policy = SamplingPolicy(temperature=0.8, max_new_tokens=12)
    expected = [
        generate(Continuation(model.tokenizer, 24, prompt, policy, rng), model.new_decoder).text for _ in range(3)
    ]
    body = {"num_samples": 3, "temperature": 0.8, "seed": 11, "max_tokens": 12, "prompt": "ab"}
    answer = text_client.post("/microgpt/v1/generate", json=body)
    assert (answer.status_code, answer.json()) == (200, {"samples": expected})
    assert len(text_client.post("/microgpt/v1/generate", json={}).json()["samples"]) == 1


def test_chat_answers_and_tells_how_much_of_a_long_conversation_is_dropped(
    chat_client: TestClient, tmp_path: Path
) -> None:
    model = trained(tmp_path, chat=True)
    turns = [Turn(USER, "abc"), Turn("assistant", "de"), Turn(USER, "fgh abc")]
    prompt, dropped = encode_prompt_turns(turns, model.tokenizer, 24)
    text = Continuation(model.tokenizer, 24, prompt, SamplingPolicy(0.5), random.Random(42))
    expected = generate(text, model.new_decoder)
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    answer = chat_client.post("/microgpt/v1/chat", json={"messages": messages})
    assert answer.json() == {"role": "assistant", "content": expected.text, "tokens_dropped": dropped}
    assert dropped == 5


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("generate", {"num_samples": 51}, "num_samples=51 is not allowed: input should be less than or equal to 50"),
        ("generate", {"num_samples": 0}, "num_samples=0 is not allowed"),
        ("generate", {"num_samples": "3"}, 'num_samples="3" is not allowed: input should be a valid integer'),
        ("generate", {"num_samples": True}, "num_samples=true is not allowed"),
        ("generate", {"temperature": -0.1}, "temperature=-0.1 is not allowed"),
        ("generate", {"seed": -1}, "seed=-1 is not allowed"),
        ("generate", {"seed": 2**63}, "seed="),
        ("generate", {"max_tokens": 2000}, "max_tokens=2000 is not allowed: it must be at most 1024"),
        ("generate", {"prompt": "ab!X"}, "prompt='ab!X' has characters that the model does not know: '!' 'X'"),
        ("generate", {"prompt": "a" * 24}, "prompt token count 25 exceeds max prompt tokens 24"),
        ("generate", {"tempratur": 1}, "tempratur is not a key of this request"),
        ("generate", {"prompt": "\ud800"}, "prompt="),
        ("generate", [], "the body=[] is not allowed"),
        (
            "chat",
            {"messages": [{"role": "user", "content": "a"}]},
            "messages are not allowed: this model is not a chat",
        ),
        ("chat", {}, "messages is missing"),
        ("chat", {"messages": [{"role": "system", "content": "a"}]}, 'messages[0].role="system" is not allowed'),
        ("stream", {}, "exactly one of prompt and messages is required"),
        ("stream", {"prompt": "a", "candidates": 21}, "candidates=21 is not allowed"),
        ("attention", {"text": "a" * 24}, "prompt token count 25"),
        ("attention", {}, "exactly one of text and messages is required"),
    ],
)
def test_a_wrong_value_is_one_sentence(text_client: TestClient, path: str, body: Any, sentence: str) -> None:
    answer = text_client.post(f"/microgpt/v1/{path}", content=json.dumps(body), headers=JSON_TYPE)
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]
    assert answer.json()["error"].isascii()
    assert len(answer.json()["error"]) < 500


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "Expecting value at line 1 column 1"),
        (b"{", "at line 1"),
        (b'{"temperature": NaN}', "NaN is not a JSON value"),
        (b'{"temperature": -Infinity}', "-Infinity is not a JSON value"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "a number in it is too long"),
        (b'{"prompt": "\xff"}', "it is not UTF-8"),
        (b"[" * 100_000, "it is nested too deeply"),
    ],
    ids=range(7),
)
def test_what_is_no_json_is_400(text_client: TestClient, body: bytes, reason: str) -> None:
    for path in ("/microgpt/v1/generate", "/v1/completions"):
        answer = text_client.post(path, content=body, headers=JSON_TYPE)
        assert answer.status_code == 400
        assert reason in str(answer.json()["error"])


def test_other_errors_are_json_too(text_client: TestClient) -> None:
    cases = [
        ("GET", "/nothing", {}, 404),
        ("GET", "/microgpt/v1/generate", {}, 405),
        ("POST", "/health", {}, 405),
        ("POST", "/microgpt/v1/generate", {"content": b"{}"}, 415),
        ("POST", "/microgpt/v1/generate", {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415),
        ("POST", "/microgpt/v1/generate", {"content": b" " * 1_000_001, "headers": JSON_TYPE}, 413),
        ("POST", "/nothing", {"content": b" " * 1_000_001}, 404),
    ]
    for method, path, sent, status in cases:
        answer = text_client.request(method, path, **sent)
        assert (answer.status_code, list(answer.json())) == (status, ["error"]), path
        assert isinstance(answer.json()["error"], str)


def test_a_bug_is_500_without_details_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = service(tmp_path)
    monkeypatch.setattr(broken.queue, "submit", lambda *_: 1 / 0)
    with TestClient(build_app(broken), base_url="http://localhost", raise_server_exceptions=False) as client:
        for path in ("generate", "stream"):
            answer = client.post(f"/microgpt/v1/{path}", json={"prompt": "a"})
            assert (answer.status_code, answer.json()) == (500, {"error": "an internal error occurred"})
        assert 'route="/microgpt/v1/stream",status="500"} 1.0' in client.get("/metrics").text


def test_a_body_without_a_length_is_counted_as_it_comes(text_client: TestClient) -> None:
    pieces = (b" " * 100_000 for _ in range(20))
    assert text_client.post("/microgpt/v1/generate", content=pieces, headers=JSON_TYPE).status_code == 413


def test_a_streamed_text_comes_with_the_probabilities_that_it_was_drawn_from(text_client: TestClient) -> None:
    body = {"prompt": "ab", "temperature": 0.9, "seed": 4, "candidates": 3, "max_tokens": 30, "top_k": 5}
    answer = text_client.post("/microgpt/v1/stream", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    start, *tokens, end = events(answer.text)
    assert start == {"type": "start", "tokens_dropped": 0, "prompt_tokens": 3}
    whole = text_client.post("/microgpt/v1/generate", json={key: body[key] for key in body if key != "candidates"})
    assert ["".join(token["text"] for token in tokens)] == whole.json()["samples"]
    assert end["completion_tokens"] == len(tokens) - (end["stop_reason"] == "end")
    for token in tokens:
        shares = [candidate["probability"] for candidate in token["candidates"]]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1 + 1e-5
        assert 0 < token["probability"] <= shares[0]


def test_attention_has_a_share_for_every_earlier_position(text_client: TestClient, chat_client: TestClient) -> None:
    found = text_client.post("/microgpt/v1/attention", json={"text": "abcab"}).json()
    assert [token["special"] or token["text"] for token in found["tokens"]] == ["bos", *"abcab"]
    maps = np.array(found["attention"])
    assert maps.shape == (1, 2, 6, 6)
    assert np.allclose(maps.sum(axis=3), 1, atol=1e-3)
    assert not np.triu(maps[0, 0], 1).any()
    assert found["losses"][0] is None
    assert all(loss > 0 for loss in found["losses"][1:])
    messages = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}]
    found = chat_client.post("/microgpt/v1/attention", json={"messages": messages}).json()
    shown = [token["special"] or token["text"] for token in found["tokens"]]
    assert shown == ["bos", "user", "a", "b", "end_turn", "assistant", "c", "end_turn"]


def test_the_card_tells_the_model_and_its_loss_curve(text_client: TestClient, tmp_path: Path) -> None:
    history = tmp_path / "run" / "history.jsonl"
    assert text_client.get("/microgpt/v1/model").json()["history"] == []
    lines = [{"step": step, "loss": 3.0 - step / 10, "val_loss": 2.5 if step == 6 else None} for step in range(1, 12)]
    history.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"half": ')
    card = text_client.get("/microgpt/v1/model").json()
    assert [point["step"] for point in card["history"]] == [1, 2, 3, 4, 5, 6, 7]  # the checkpoint is of step 7
    assert (card["val_loss"], card["step"], card["seed"]) == (2.5, 7, 5)
    assert card["parameters"] == sum(np.prod(tensor["shape"]) for tensor in card["tensors"])
    assert str(tmp_path) not in json.dumps(card)


# The key


def test_what_computes_wants_the_key_and_the_rest_does_not(tmp_path: Path) -> None:
    with TestClient(base_url="http://localhost", app=build_app(service(tmp_path, api_key="s3cret"))) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
            for path in ("/microgpt/v1/generate", "/v1/completions"):
                answer = client.post(path, json={}, headers=headers)
                assert answer.status_code == 401
                assert "s3cret" not in answer.text
            assert client.get("/v1/models", headers=headers).status_code == 401
            assert client.get("/microgpt/v1/model", headers=headers).json().keys() == {"error"}
        right = {"authorization": "Bearer s3cret"}
        assert client.post("/microgpt/v1/generate", json={}, headers=right).status_code == 200
        assert client.get("/v1/models", headers=right).status_code == 200
        for path in ("/health", "/metrics", "/openapi.json", "/docs"):
            assert client.get(path).status_code == 200


# What it says of itself


def test_every_series_is_there_from_the_start_and_counts(text_client: TestClient) -> None:
    def figures() -> dict[str, float]:
        lines = text_client.get("/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    before = figures()
    for route in ("/microgpt/v1/generate", "/v1/chat/completions", "/health", "/", "elsewhere"):
        for status in (200, 422, 429, 503):
            assert f'microgpt_requests_total{{route="{route}",status="{status}"}}' in before
    text_client.post("/microgpt/v1/generate", json={"num_samples": 2, "max_tokens": 3})
    text_client.get("/nothing/at/all")
    after = figures()
    assert set(before) == set(after)
    assert after['microgpt_requests_total{route="/microgpt/v1/generate",status="200"}'] == 1
    assert after['microgpt_requests_total{route="elsewhere",status="404"}'] == 1
    assert 2 <= after['microgpt_tokens_total{kind="drawn"}'] <= 6
    assert after['microgpt_request_duration_seconds_count{route="/microgpt/v1/generate"}'] == 1


def test_the_documentation_needs_no_other_site(text_client: TestClient) -> None:
    page = text_client.get("/docs").text
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)
    for address in re.findall(r"(?:src|href)=\"([^\"]+)\"", page):
        assert text_client.get(address).status_code == 200
    paths = text_client.get("/openapi.json").json()["paths"]
    assert {"/microgpt/v1/generate", "/microgpt/v1/chat", "/v1/models", "/v1/completions", "/v1/chat/completions",
            "/health", "/metrics"} <= set(paths)  # fmt: skip


def test_two_models_have_two_fingerprints(tmp_path: Path) -> None:
    one, other = trained(tmp_path), trained(tmp_path)
    other.checkpoint.state.parameters["wte"][0, 0, 0] += 1e-3
    prints = [
        Service(replace(model), ServeConfig(), None).model.fingerprint for model in (one, trained(tmp_path), other)
    ]
    assert prints[0] == prints[1] != prints[2]
