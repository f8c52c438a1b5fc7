"""Train, export and serve a model, then use it with curl, the OpenAI client and the page."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.browser import CHROMIUM
from support.program import Program

pytest.importorskip("fastapi_offline", reason="task=serve needs the extra [serve]")
pytest.importorskip("openai", reason="the official client is not installed")

import openai
from support.server_process import Server, start_server

QUESTION = {"role": "user", "content": "hello"}


def curl(server: Server, path: str, body: dict[str, Any]) -> Any:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("needs curl")
    arguments = ["--fail", "--silent", "--show-error", "--noproxy", "*", "--header", "Content-Type: application/json"]
    done = subprocess.run(
        [program, *arguments, "--data", json.dumps(body), server.url + path], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def exported(program: Program, run: Path, *arguments: str) -> str:
    folder = f"{run.name}_exported"
    program("task=export", f"checkpoint={run}", f"export.path={folder}", *arguments)
    return folder


@pytest.mark.slow
def test_train_export_serve_and_generate(microgpt: Program) -> None:
    microgpt("mode=tensor", "backend=native", "style=classic", "train.steps=300", "train.eval_documents=50")
    microgpt(
        "experiment=chat",
        "backend=native",
        "train.steps=40",
        "schedule.warmup_steps=10",
        "model.n_embd=32",
        "model.n_head=4",
        "model.n_layer=2",
        "train.eval_documents=10",
        "sample.num_samples=1",
    )
    names_run, chat_run = microgpt.runs()
    names_export = exported(microgpt, names_run)
    chat_export = exported(microgpt, chat_run, "export.half=true")
    with (
        start_server(microgpt, f"checkpoint={names_export}") as names,
        start_server(microgpt, f"checkpoint={chat_export}") as chat,
    ):
        # curl gets what the command line prints
        samples = curl(names, "/microgpt/v1/generate", {"num_samples": 4, "seed": 5, "prompt": "an"})["samples"]
        key = ("mode=tensor", "sample.prompt=an", "sample.num_samples=4", "sample.seed=5", "sample.temperature=0.5")
        printed = microgpt("task=sample", f"checkpoint={names_export}", *key).stdout
        assert [f": an{sample}" in printed for sample in samples] == [True] * 4
        answer = curl(chat, "/microgpt/v1/chat", {"messages": [QUESTION], "temperature": 0, "max_tokens": 30})
        assert (answer["role"], answer["tokens_dropped"]) == ("assistant", 0)

        # so does OpenAI's client
        texts = openai.OpenAI(base_url=f"{names.url}/v1", api_key="none")
        choices = texts.completions.create(model="gpt", prompt="an", n=4, seed=5, temperature=0.5).choices
        assert [choice.text for choice in choices] == samples
        talks = openai.OpenAI(base_url=f"{chat.url}/v1", api_key="none")
        (model,) = talks.models.list().data
        body: Any = {"model": model.id, "messages": [QUESTION], "temperature": 0, "max_tokens": 30}
        assert talks.chat.completions.create(**body).choices[0].message.content == answer["content"]
        pieces = [chunk.choices[0].delta.content or "" for chunk in talks.chat.completions.create(**body, stream=True)]
        assert "".join(pieces) == answer["content"]

        # and the page
        greedy = curl(names, "/microgpt/v1/generate", {"temperature": 0, "prompt": "an"})["samples"][0]
        assert on_the_page(names, "an") == greedy


def on_the_page(server: Server, prompt: str) -> str:
    """Return the most likely continuation of a prompt, as shown in a browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
    if CHROMIUM is None:
        pytest.skip("all but the page was tried: needs Chromium or Chrome on PATH")
    with playwright.sync_playwright() as started:
        page = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
        page.goto(server.url)
        page.select_option("#pace", "0")
        page.fill("#temperature", "0")
        page.fill("#prompt", prompt)
        page.press("#prompt", "Enter")
        page.locator("#generate-status", has_text="Seed").wait_for()
        *shown, _ = page.locator("#tokens button .glyph").all_inner_texts()  # the last is the end
        return "".join(shown)
