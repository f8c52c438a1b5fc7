"""The official `openai` client with a server started by the command line."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.program import Program, make_program

pytest.importorskip("fastapi_offline", reason="task=serve needs the extra [serve]")
pytest.importorskip("openai", reason="the official client is not installed")

import openai
from support.server_process import Server, start_server, train_names

pytestmark = pytest.mark.slow

CHAT = (
    "mode=tensor", "backend=native", "data=chat", "style=classic", "model.n_embd=16", "model.n_layer=1",
    "model.block_size=64", "train.steps=30", "train.batch_size=4", "train.eval_documents=10", "sample.num_samples=0",
)  # fmt: skip
HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    yield from make_program(tmp_path_factory.mktemp("openai"))


@pytest.fixture(scope="module")
def names(program: Program) -> Iterator[Server]:
    with start_server(train_names(program)) as server:
        yield server


@pytest.fixture(scope="module")
def chat(program: Program, names: Server) -> Iterator[Server]:
    program(*CHAT)
    with start_server(program, "serve.api_key=a-key") as server:
        yield server


def client(server: Server, key: str = "a-key") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def test_models_are_listed_and_others_are_not_found(names: Server) -> None:
    here = client(names)
    (model,) = here.models.list().data
    assert here.models.retrieve(model.id) == model
    assert (model.id, model.object, model.owned_by) == ("gpt", "model", "microgpt")
    with pytest.raises(openai.NotFoundError, match="this server has 'gpt'"):
        here.models.retrieve("gpt-17")
    with pytest.raises(openai.NotFoundError, match="'gpt-17' does not exist"):
        here.completions.create(model="gpt-17", prompt="a")


def test_completions_whole_and_streamed_are_the_same_text(names: Server) -> None:
    here = client(names)
    asked: Any = {"model": "gpt", "prompt": ["an", "jo"], "n": 2, "seed": 7, "temperature": 0.8, "max_tokens": 20}
    whole = here.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in whole.choices}) > 1
    assert (whole.object, whole.model) == ("text_completion", "gpt")
    texts, reasons, usage = [""] * 4, [""] * 4, None
    for chunk in here.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        usage = chunk.usage or usage
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 2 * 3  # BOS and two letters each, once for both texts
    assert whole.usage.completion_tokens == sum(map(len, texts))
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    again = here.completions.create(**asked)
    assert [choice.text for choice in again.choices] == texts
    assert again.system_fingerprint == whole.system_fingerprint


def test_max_tokens_stop_echo_and_temperature_are_obeyed(names: Server) -> None:
    here = client(names)
    greedy = here.completions.create(model="gpt", prompt="a", temperature=0, seed=1)
    text = greedy.choices[0].text
    assert len(text) > 2
    cut = here.completions.create(model="gpt", prompt="a", temperature=0, max_tokens=2)
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (text[:2], "length")
    stopped = here.completions.create(model="gpt", prompt="a", temperature=0, stop=["~", text[1:3]])
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == (text[:1], "stop")
    streamed = here.completions.create(model="gpt", prompt="a", temperature=0, stop=text[1:3], stream=True, echo=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == "a" + text[:1]
    free = {here.completions.create(model="gpt", temperature=1.5, prompt="").choices[0].text for _ in range(8)}
    assert len(free) > 1  # without a seed answers differ


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"prompt": "ABC"}, "has characters that the model does not know: 'A' 'B' 'C'"),
        ({"prompt": "a", "temperature": -1}, "temperature=-1 is not allowed"),
        ({"prompt": "a", "max_tokens": 100_000}, "at most 1024"),
        ({"prompt": "a", "top_p": 0.5}, "top_p is not supported by this server: omit it"),
        ({"prompt": "a", "logprobs": 3}, "logprobs is not supported"),
        ({"prompt": "a", "extra_body": {"beam": 4}}, "beam is not a key of this request"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": "a", "stop": ["a"] * 5}, "stop"),
    ],
    ids=range(8),
)
def test_what_is_not_allowed_is_a_bad_request_in_words(names: Server, asked: Any, sentence: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client(names).completions.create(model="gpt", **asked)
    assert sentence in refused.value.message
    assert refused.value.type == "invalid_request_error"


def test_neutral_values_that_clients_send_are_taken(names: Server) -> None:
    whole = client(names).completions.create(
        model="gpt", prompt="a", top_p=1, presence_penalty=0, frequency_penalty=0, best_of=1, user="me", temperature=0
    )
    assert whole.choices[0].text


def test_a_model_that_is_no_chat_model_says_so(names: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="not a chat model"):
        client(names).chat.completions.create(model="gpt", messages=HELLO)


def test_chat_whole_and_streamed_are_the_same_answer(chat: Server) -> None:
    here = client(chat)
    asked: Any = {"model": "gpt", "messages": HELLO, "seed": 3, "n": 2, "max_completion_tokens": 12, "temperature": 0.7}
    whole = here.chat.completions.create(**asked)
    assert [choice.message.role for choice in whole.choices] == ["assistant"] * 2
    texts, roles = ["", ""], ["", ""]
    for chunk in here.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] = choice.delta.role or roles[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert roles == ["assistant"] * 2
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    assert [c.message.content for c in here.chat.completions.create(**{**asked, "messages": parts}).choices] == texts


def test_a_wrong_key_is_an_authentication_error(chat: Server) -> None:
    with pytest.raises(openai.AuthenticationError, match="Bearer"):
        client(chat, "another").chat.completions.create(model="gpt", messages=HELLO)
    assert "a-key" not in chat.said() + chat.complained()


def test_the_asynchronous_client_leaves_a_stream_early(names: Server) -> None:
    import asyncio

    async def leave() -> str:
        async with openai.AsyncOpenAI(base_url=f"{names.url}/v1", api_key="none", max_retries=0) as here:
            stream = await here.completions.create(model="gpt", prompt="", max_tokens=1000, stream=True, n=50, seed=1)
            async for chunk in stream:
                if chunk.choices[0].text:
                    await stream.close()
                    return chunk.choices[0].text
        raise AssertionError("nothing came")

    assert asyncio.run(leave())
    names.wait_for_metric("microgpt_requests_active", 0)
