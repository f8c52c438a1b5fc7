"""The page of export.format=html, opened from a file: its results and its training agree with the engines."""

import base64
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.browser import generate, launched_browser, overflow, texts
from support.models import ADAM, OPTIONS, engine_of, examples_of, random_state, with_options, workload
from support.program import GOLDEN

from microgpt.data.conversations import USER, Turn, encode_prompt_turns
from microgpt.data.tokenizer import CHAT_SPECIAL, Tokenizer
from microgpt.engines.base import EngineState
from microgpt.inference.attention_maps import forward
from microgpt.inference.generation import Continuation, stream
from microgpt.inference.sampling import SamplingPolicy
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.tasks.html_page import html_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHARS = [*"abcdefghijklmnopqrstuvwxyz"]
NAMES = ModelSpec("gpt", vocab_size=27, n_embd=16, n_head=4, n_layer=2, block_size=16)
CHAT = replace(NAMES, vocab_size=30, block_size=40, n_layer=1)
SPECS = {
    "names": NAMES,
    "tied": replace(NAMES, tie_lm_head=True, activation="relu_squared", n_layer=1, n_head=2),
    "unnormed": replace(NAMES, input_rmsnorm=False, n_embd=18, n_head=3, block_size=9),
    "bigram": ModelSpec("bigram", vocab_size=27, n_embd=27, n_head=1, n_layer=0, block_size=16),
    "chat": CHAT,
    **{name: replace(NAMES, **OPTIONS[name]) for name in ("gpt2", "llama", "nanochat")},
    "large chat": replace(CHAT, n_embd=128, n_head=4, n_layer=4, block_size=256),
}
STYLE = {"name": "pirate", "documents": [], "share": 0.1, "phrases": ["arr"], "bias": 3.0}
Open = Callable[..., "Page"]


def checkpoint_of(folder: Path, name: str) -> Checkpoint:
    """Create a checkpoint with random float32 weights whose logits have about the same size at any width."""
    spec = SPECS[name]
    special = CHAT_SPECIAL if spec.vocab_size == CHAT.vocab_size else ()
    state = random_state(spec)
    scale = 2 / spec.n_embd**0.5
    parameters = {name: (array * scale).astype(np.float32) for name, array in state.parameters.items()}
    path = folder / name / "checkpoint" / "step_00000100"
    style = STYLE if name == "tied" else {}
    meta = Meta(spec, CHARS, "float32", "gpt", style, special)
    write_checkpoint(path, meta, EngineState(parameters), Progress(100, seed=42))
    return load_checkpoint(path)


def exported(checkpoint: Checkpoint, folder: Path) -> Path:
    path = folder / "page.html"
    path.write_bytes(html_page(checkpoint, checkpoint.state.parameters))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    yield from launched_browser()


@pytest.fixture
def open_file(browser: "Browser") -> Iterator[Open]:
    """Opens an exported page, and finally checks that it has made no requests and has no errors."""
    contexts, asked, wrong = [], [], []

    def opened(path: Path, section: str = "", **options: Any) -> "Page":
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.extend([said.text] if said.type in ("error", "warning") else []))
        page.goto(f"file://{path}{section and '#' + section}")
        page.locator("#room:visible, #page-error:visible").first.wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
    assert {url.split(":")[0] for url in asked} <= {"file", "blob", "data"}
    assert len([url for url in asked if url.startswith("file:")]) == len(contexts), "it asked for other files"


# The modules of the worker, in the page's own window, where a test can call them. That takes `eval`, which the page's
# policy forbids: the context bypasses it.
MODULES = """async () => {
  const bytes = (id) => Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const unzipped = (id) => new Response(new Blob([bytes(id)]).stream().pipeThrough(new DecompressionStream("gzip")));
  const names = "$model, $spec, $text_model, $tokenizer, $training_session, $python_random";
  window.modules = new Function(`${await unzipped("script-worker").text()}; return { ${names} };`)();
  const { description } = await unzipped("data-model").json();
  window.model = new modules.$text_model.TextModel(description, bytes("data-weights").buffer);
}"""


def with_modules(open_file: Open, path: Path) -> "Page":
    page = open_file(path, bypass_csp=True)
    page.evaluate(MODULES)
    return page


# Inference


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_logits_and_greedy_texts_of_50_prompts_equal_the_native_engine_s(
    name: str, tmp_path: Path, open_file: Open
) -> None:
    checkpoint = checkpoint_of(tmp_path, name)
    spec, tokenizer = checkpoint.meta.spec, Tokenizer(CHARS, checkpoint.meta.special)
    engine = engine_of("native", spec, ADAM, None, checkpoint.state, dtype="float32")
    page = with_modules(open_file, exported(checkpoint, tmp_path))
    assert page.evaluate("modules.$spec.shapes(model.spec)") == [[n, *shape] for n, shape in spec.shapes().items()]
    rng = random.Random(1)
    prompts = ["".join(rng.choices("abcdefghijklmno", k=1 + i % (spec.block_size - 1))) for i in range(50)]
    chat = bool(checkpoint.meta.special)
    limit = spec.block_size + 5 if not chat else 10  # longer than the block: it slides
    found = page.evaluate(
        """([prompts, chat, limit]) => prompts.map((prompt) => {
          const body = chat ? { messages: [{ role: "user", content: prompt }] } : { prompt };
          const decoder = new modules.$model.Decoder(model.spec, model.weights);
          const { tokens } = model.prompt(body);
          const logits = tokens.map((token) => [...decoder.feed(token)]);
          const settings = { temperature: 0, seed: 1, max_tokens: limit, candidates: 0 };
          const events = [...model.stream({ ...body, ...settings })].filter(({ type }) => type === "token");
          return { tokens, logits, text: events.map(({ text }) => text).join("") };
        })""",
        [prompts, chat, limit],
    )
    style = checkpoint.meta.style or {"phrases": [], "bias": 0.0}
    policy = SamplingPolicy(0.0, None, limit, tuple(style["phrases"]), style["bias"])
    worst = 0.0
    for prompt, answer in zip(prompts, found, strict=True):
        own = [tokenizer.bos, *tokenizer.encode(prompt)]
        tokens = encode_prompt_turns([Turn(USER, prompt)], tokenizer, spec.block_size)[0] if chat else own
        assert answer["tokens"] == tokens
        decoder = engine.decoder(0)
        logits = np.array([decoder.feed(token) for token in tokens])
        worst = max(worst, float(np.abs(np.array(answer["logits"]) - logits).max()))
        text = Continuation(tokenizer, spec.block_size, tokens, policy, random.Random(1))
        assert answer["text"] == tokenizer.decode(stream(text, lambda: engine.decoder(0))), prompt
    assert worst <= 1e-4


@pytest.mark.slow
def test_every_option_of_a_model_is_computed_in_the_page(tmp_path: Path, open_file: Open) -> None:
    page = with_modules(open_file, exported(checkpoint_of(tmp_path, "bigram"), tmp_path))
    for name in OPTIONS:
        spec = with_options(name, n_layer=2)
        parameters, tokens = random_state(spec).parameters, examples_of(spec, 1)[0][: spec.block_size]
        expected = forward(spec, parameters, tokens)
        shapes, logits, attention = page.evaluate(
            """([spec, weights, tokens]) => {
              const { Decoder, readText } = modules.$model;
              const { shapes } = modules.$spec;
              const decoder = new Decoder(spec, weights);
              const logits = tokens.map((token) => [...decoder.feed(token)]);
              return [shapes(spec), logits, readText(spec, weights, tokens).attention];
            }""",
            [spec.to_dict(), {key: array.ravel().tolist() for key, array in parameters.items()}, tokens],
        )
        assert shapes == [[key, *shape] for key, shape in spec.shapes().items()], name
        np.testing.assert_allclose(logits, expected.logits, rtol=1e-9, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(attention, expected.attention, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.slow
def test_the_page_generates_and_shows_attention_without_a_server(tmp_path: Path, open_file: Open) -> None:
    checkpoint = checkpoint_of(tmp_path, "names")
    spec, parameters = checkpoint.meta.spec, checkpoint.state.parameters
    path = exported(checkpoint, tmp_path)
    weights = sum(len(base64.b64encode(array.tobytes())) for array in parameters.values())
    assert path.stat().st_size < 1.5 * weights + 200_000
    page = open_file(path)
    assert "Runs on this device (JavaScript)" in page.inner_text("#summary")
    generate(page, "an", temperature="0.8", seed="7")
    tokenizer = Tokenizer(CHARS)
    engine = engine_of("native", spec, ADAM, None, checkpoint.state, dtype="float32")
    prompt = [tokenizer.bos, *tokenizer.encode("an")]
    text = Continuation(tokenizer, spec.block_size, prompt, SamplingPolicy(0.8), random.Random(7))
    expected = [(tokenizer.decode([token]), text.probs[token]) for token in stream(text, lambda: engine.decoder(0))]
    glyphs = texts(page, "#tokens button .glyph")
    assert glyphs[: len(expected)] == [glyph for glyph, _ in expected]
    shown = [float(figure.strip("<>%")) / 100 for figure in texts(page, "#tokens button .figure")]
    assert shown[: len(expected)] == pytest.approx([share for _, share in expected], abs=0.0051)
    page.click("#tab-attention")
    page.locator("#heads canvas").first.wait_for()
    page.mouse.move(0, 0)  # off the tokens, which would be marked when they scroll under it
    page.fill("#attention-text", "anna")
    page.press("#attention-text", "Enter")
    page.locator("#attention-status", has_text="5 tokens.").wait_for()
    page.focus("#heads button >> nth=6")  # layer 2, head 3
    found = forward(spec, parameters, [26, *tokenizer.encode("anna")])
    assert texts(page, "#losses .figure") == ["–", *(f"{loss:.2f}" for loss in found.losses[1:])]
    row = [float(share.strip("<>%")) / 100 for share in texts(page, "#row .figure")]
    assert row == pytest.approx(found.attention[1, 2, 4].tolist(), abs=0.0051)
    page.fill("#attention-text", "Zoë")
    page.press("#attention-text", "Enter")
    page.locator("#attention-error", has_text="'Z' 'ë'").wait_for()
    page.click("#tab-model")
    facts = dict(zip(texts(page, "#facts dt"), texts(page, "#facts dd"), strict=True))
    assert facts["Parameters"] == f"{spec.parameter_count():,}"
    assert page.locator("#tensors tbody tr").count() == len(spec.shapes())


@pytest.mark.slow
def test_a_chat_model_answers_in_the_browser(tmp_path: Path, open_file: Open) -> None:
    checkpoint = checkpoint_of(tmp_path, "chat")
    page = open_file(exported(checkpoint, tmp_path), "chat")
    page.fill("#message", "hello")
    page.press("#message", "Enter")
    page.locator("#turns .turn >> nth=1").wait_for()
    page.locator("#chat-stop:disabled").wait_for()
    tokenizer = Tokenizer(CHARS, CHAT_SPECIAL)
    engine = engine_of("native", CHAT, ADAM, None, checkpoint.state, dtype="float32")
    prompt = encode_prompt_turns([Turn(USER, "hello")], tokenizer, CHAT.block_size)[0]
    answer = Continuation(tokenizer, CHAT.block_size, prompt, SamplingPolicy(0.0), random.Random(42))
    said = tokenizer.decode(stream(answer, lambda: engine.decoder(0)))
    assert texts(page, "#turns .turn p:not(.who)") == ["hello", said]
    page.click("#tab-train")
    assert page.locator("#train-start option[value=model]").is_disabled()
    assert "conversations" in page.inner_text("#train-start-hint")


# Training


@pytest.mark.slow
def test_training_on_the_reference_s_names_equals_the_reference(
    tmp_path: Path, data_dir: Path, open_file: Open
) -> None:
    golden = json.loads((GOLDEN / "k2_seed42.json").read_text())
    page = open_file(exported(checkpoint_of(tmp_path, "bigram"), tmp_path), "train")
    page.select_option("#train-data", "lines")
    # Not page.fill, which inserts as typing does: minutes for so many lines
    page.locator("#train-lines").evaluate("(field, text) => (field.value = text)", (data_dir / "names.txt").read_text())
    assert (page.input_value("#train-steps"), page.input_value("#train-seed")) == ("1000", "42")
    page.click("#train-run")
    page.locator("#train-status", has_text="Trained 1,000 steps").wait_for()
    with page.expect_download() as download:
        page.click("#train-save")
    head, *lines = download.value.path().read_text().splitlines()
    assert head == "step,loss"
    steps, losses = zip(*(map(float, line.split(",")) for line in lines), strict=True)
    assert steps == tuple(range(1, 1001))
    assert np.abs(np.array(losses) - golden["losses"]).max() <= 1e-9
    assert texts(page, "#train-samples li") == golden["samples"]


@pytest.mark.slow
def test_random_numbers_are_cpython_s(tmp_path: Path, open_file: Open) -> None:
    page = with_modules(open_file, exported(checkpoint_of(tmp_path, "bigram"), tmp_path))
    seeds = [0, 1, 42, 2**32 - 1, 2**32, 2**53 - 1, 2**63 - 1, 2**200 + 12345]
    found = page.evaluate(
        """(seeds) => seeds.map((seed) => {
          const random = new modules.$python_random.PythonRandom(BigInt(seed));
          const order = Array.from({ length: 1000 }, (_, i) => i);
          random.shuffle(order);
          const numbers = Array.from({ length: 700 }, () => random.random());
          const bits = Array.from({ length: 32 }, (_, i) => random.getrandbits(i + 1));
          const below = Array.from({ length: 50 }, (_, i) => random.below(i * 40 + 1));
          const choices = Array.from({ length: 50 }, () => random.choice([0.1, 0, 0.55, 0.35]));
          const exact = [order, numbers, bits, below, choices];
          return { exact, gauss: Array.from({ length: 501 }, () => random.gauss(0.5, 2)), last: random.random() };
        })""",
        [str(seed) for seed in seeds],
    )
    for seed, numbers in zip(seeds, found, strict=True):
        rng = random.Random(seed)
        order = list(range(1000))
        rng.shuffle(order)
        assert numbers["exact"] == [
            order,
            [rng.random() for _ in range(700)],
            [rng.getrandbits(i + 1) for i in range(32)],
            [rng.randrange(i * 40 + 1) for i in range(50)],
            [rng.choices(range(4), weights=[0.1, 0, 0.55, 0.35])[0] for _ in range(50)],
        ]
        # The same draws; log, sin and cos may differ in the last bit from those of Python's C library.
        assert numbers["gauss"] == pytest.approx([rng.gauss(0.5, 2) for _ in range(501)], rel=1e-14, abs=1e-14)
        assert numbers["last"] == rng.random()


@pytest.mark.slow
def test_every_option_trains_as_the_scalar_engine_does(tmp_path: Path, open_file: Open) -> None:
    page = with_modules(open_file, exported(checkpoint_of(tmp_path, "bigram"), tmp_path))
    for name in ("names", "tied", "unnormed", "bigram"):
        spec = SPECS[name]
        state, examples = random_state(spec), examples_of(spec, 7)
        engine = engine_of("python", spec, replace(ADAM, beta1=0.85, beta2=0.99), workload(examples, 3), state)
        steps = 12
        expected = engine.advance(0, np.array([[0.01 * (1 - s / steps)] for s in range(steps)]))[:, 0]
        losses, weights = page.evaluate(
            """([spec, weights, examples, steps]) => {
              const { TrainingSession } = modules.$training_session;
              const { n_embd, n_head, n_layer, ...rest } = spec;
              const chars = [..."abcdefghijklmnopqrstuvwxyz"];
              const shape = { n_embd, n_head, n_layer, ...rest };
              const options = { text: "a", seed: 1, steps, lr: 0.01, batch_size: 3, shape, chars, weights: null };
              const session = new TrainingSession(options);
              session.examples = examples.map((example) => Int32Array.from(example));
              session.order = examples.map((_, i) => i);
              for (const [name, numbers] of Object.entries(weights)) session.trainer.weights[name].set(numbers);
              const losses = Array.from({ length: steps }, () => session.step());
              const after = Object.entries(session.trainer.weights).map(([name, numbers]) => [name, [...numbers]]);
              return [losses, Object.fromEntries(after)];
            }""",
            [
                spec.to_dict(),
                {tensor: array.ravel().tolist() for tensor, array in state.parameters.items()},
                examples,
                steps,
            ],
        )
        assert losses == pytest.approx(expected.tolist(), abs=1e-10), name
        for tensor, array in engine.state().parameters.items():
            np.testing.assert_allclose(weights[tensor], array.ravel(), atol=1e-9, err_msg=f"{name} {tensor}")


@pytest.mark.slow
def test_one_step_shows_gradients_and_updates_and_goes_on_from_the_model_s_weights(
    tmp_path: Path, open_file: Open
) -> None:
    checkpoint = checkpoint_of(tmp_path, "names")
    page = open_file(exported(checkpoint, tmp_path), "train")
    page.select_option("#train-start", "model")
    assert page.locator("#train-n-layer").is_disabled()
    assert (page.input_value("#train-n-layer"), page.input_value("#train-lr")) == ("2", "0.001")
    page.fill("#train-lr", "0.01")
    page.select_option("#train-data", "lines")
    page.fill("#train-lines", "  anna \n\nanna\r\n")
    page.click("#train-one")
    page.locator("#train-step-title", has_text="Step 1").wait_for()
    spec, tokens = checkpoint.meta.spec, [26, *Tokenizer(CHARS).encode("anna"), 26]
    losses = forward(spec, checkpoint.state.parameters, tokens).losses[1:]
    assert texts(page, "#train-step-tokens .figure") == ["–", *(f"{loss:.2f}" for loss in losses)]
    assert f"loss {losses.mean():.4f}, learning rate 0.01" in page.inner_text("#train-step-title")
    assert texts(page, "#train-tensors tbody th") == list(spec.shapes())
    # The scalar engine's gradients and updates
    engine = engine_of(
        "python", spec, replace(ADAM, beta1=0.85, beta2=0.99), workload([tokens], 1),
        EngineState({name: array.astype(np.float64) for name, array in checkpoint.state.parameters.items()}),
    )  # fmt: skip
    engine.advance(0, np.array([[0.01]]))
    state = engine.state()
    for row, name in zip(page.locator("#train-tensors tbody tr").all(), spec.shapes(), strict=True):
        gradient = np.linalg.norm(state.m[name] / (1 - 0.85))  # after one step m is a multiple of the gradient
        update = np.linalg.norm(state.parameters[name] - checkpoint.state.parameters[name])
        figures = [float(text) for text in row.locator("td.number").all_inner_texts()[1:3]]
        assert figures == pytest.approx([gradient, update], rel=5e-3)
    assert page.locator("#train-tensors canvas").count() == 2 * len(spec.shapes())
    # The model learns the one line by heart
    page.click("#train-run")
    page.locator("#train-status", has_text="Trained 1,000 steps").wait_for()
    assert set(texts(page, "#train-samples li")) == {"anna"}
    # Mistakes are sentences; what the rest of the page shows is the exported model
    page.fill("#train-lines", "Zoë")
    page.click("#train-run")
    page.locator("#train-error[role=alert]", has_text="does not know the characters Z ë").wait_for()
    page.select_option("#train-start", "random")
    assert (page.input_value("#train-n-layer"), page.input_value("#train-lr")) == ("1", "0.01")
    page.click("#train-form summary")
    page.fill("#train-n-head", "3")
    page.click("#train-run")
    page.locator("#train-error", has_text="16 is not a multiple of 3").wait_for()
    page.fill("#train-lines", " \n ")
    page.click("#train-one")
    page.locator("#train-error", has_text="no lines to train on").wait_for()


@pytest.mark.slow
def test_a_training_can_be_paused_watched_and_started_over(tmp_path: Path, open_file: Open) -> None:
    page = open_file(exported(checkpoint_of(tmp_path, "names"), tmp_path), "train")
    page.fill("#train-steps", "1000000")
    page.focus("#train-run")
    page.keyboard.press("Enter")
    page.locator("#train-progress", has_text="steps a second").wait_for()
    assert "on 29,910 lines" in page.inner_text("#train-status")
    assert page.locator("#train-run").inner_text() == "Pause"
    page.fill("#train-watch", "zoe")
    page.press("#train-watch", "Enter")
    page.locator("#train-losses .chip", has_text="z").wait_for()
    assert texts(page, "#train-losses .glyph") == ["start", "z", "o", "e"]
    page.keyboard.press("Tab")  # the watched text goes on being shown
    before = page.inner_text("#train-progress")
    page.locator("#train-progress", has_not_text=before.split(".")[0]).wait_for()
    page.click("#train-run")
    page.locator("#train-status", has_text="Paused after step").wait_for()
    done = int(re.sub(r"\D", "", page.inner_text("#train-status")))
    page.click("#train-one")
    page.locator("#train-step-title", has_text=f"Step {done + 1}:").wait_for()
    assert page.locator("#train-heads canvas").count() == 4
    assert "to " in (page.locator("#train-curve svg[role=img]").get_attribute("aria-label") or "")
    page.click("#train-run")  # and goes on
    page.locator("#train-status", has_text="Training a gpt").wait_for()
    page.click("#train-reset")
    assert not page.locator("#train-result").is_visible()
    assert page.locator("#train-run").inner_text() == "Train"
    page.fill("#train-steps", "3")
    page.click("#train-form summary")
    page.select_option("#train-kind", "bigram")
    page.click("#train-run")
    page.locator("#train-status", has_text="Trained 3 steps").wait_for()
    assert "no heads" in page.inner_text("#train-heads")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_no_section_is_wider_than_its_window(tmp_path: Path, open_file: Open, width: int, scheme: str) -> None:
    path = exported(checkpoint_of(tmp_path, "names"), tmp_path)
    page = open_file(path, viewport={"width": width, "height": 844}, color_scheme=scheme)
    generate(page, "ab" * 7, temperature="2")
    page.click("#tab-train")
    page.click("#train-form summary")
    page.click("#train-one")
    page.locator("#train-step:visible").wait_for()
    for section in ("train", "generate", "attention", "chat", "model"):
        page.click(f"#tab-{section}")
        assert overflow(page) <= 0, section
