"""The page that task=serve shows, in a real browser, against the real server."""

import json
import re
import urllib.request
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.browser import generate, launched_browser, overflow, texts
from support.program import Program, make_program

import microgpt

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STATIC = Path(microgpt.__file__).parent / "serve" / "static"
KEY = "sesame"
SECTIONS = ("generate", "attention", "chat", "train", "model")
Open = Callable[..., "Page"]


# The files


def files(*suffixes: str) -> list[Path]:
    return sorted(path for path in STATIC.iterdir() if path.suffix in suffixes)


class Markup(HTMLParser):
    """Return the elements of a page and the sources of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style"):
            self.scripts += data.strip()


@pytest.fixture(scope="module")
def markup() -> Markup:
    parsed = Markup()
    parsed.feed((STATIC / "index.html").read_text())
    return parsed


def test_the_page_needs_no_inline_script_or_style(markup: Markup) -> None:
    assert markup.scripts == ""
    for tag, attributes in markup.found:
        assert tag != "style"
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag


def test_every_file_that_is_named_is_there_and_none_is_elsewhere(markup: Markup) -> None:
    named = {value for _, attributes in markup.found for key, value in attributes.items() if key in ("src", "href")}
    named |= {"worker.js", "local_api.js"}  # of api.js and of serve/single_file.py
    for path in files(".js"):
        named |= set(re.findall(r'^(?:import|\}).* from "\./(.*)";$', path.read_text(), re.M))
    assert named | {"index.html"} == {path.name for path in STATIC.iterdir() if path.is_file()}
    for path in files(".html", ".css", ".js", ".svg"):
        assert set(re.findall(r"https?://[^\s\"')]+", path.read_text())) <= {"http://www.w3.org/2000/svg"}, path.name


def test_every_field_has_a_label(markup: Markup) -> None:
    labelled = {attributes.get("for") for tag, attributes in markup.found if tag == "label"}
    fields = [attributes for tag, attributes in markup.found if tag in ("input", "select", "textarea")]
    assert len(fields) > 10
    assert [field["id"] for field in fields if field["id"] not in labelled and not field.get("aria-label")] == []


def colours(which: str) -> dict[str, tuple[float, ...]]:
    """Return the colours of the style sheet by name. The dark colours are in the second block."""
    block = (STATIC / "page.css").read_text().split(":root {")[1 if which == "light" else 2].split("}")[0]
    found = re.findall(r"--([a-z-]+): #([0-9a-f]{6});", block)
    return {name: tuple(int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)) for name, value in found}


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """WCAG 2.2: (L1 + 0.05) / (L2 + 0.05) of relative luminances."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("which", ["light", "dark"])
def test_text_has_a_contrast_of_4_5_and_edges_of_3(which: str) -> None:
    colour = colours(which)
    text = [(ink, paper) for ink in ("ink", "soft", "accent", "drawn") for paper in ("paper", "raised")]
    text += [("ink", "fill"), ("on-accent", "accent"), ("wrong", "wrong-paper"), ("paper", "ink")]
    edges = [(edge, paper) for edge in ("edge", "accent", "drawn") for paper in ("paper", "raised")]
    edges += [("drawn", "fill"), ("heat-all", "paper"), ("heat-all", "raised")]
    for pairs, least in ((text, 4.5), (edges, 3.0)):
        found = {pair: round(contrast(colour[pair[0]], colour[pair[1]]), 2) for pair in pairs}
        assert {pair: ratio for pair, ratio in found.items() if ratio < least} == {}


# The browser


@dataclass(frozen=True)
class Served:
    """A server with one model."""

    address: str  # http://127.0.0.1:<port>

    def ask(self, path: str, **body: Any) -> Any:
        """Return the response of /microgpt/v1/<path>, or the events of a stream."""
        request = urllib.request.Request(
            f"{self.address}/microgpt/v1/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode()
        if path != "stream":
            return json.loads(text)
        return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]


def serve(program: Program, *arguments: str) -> Served:
    """Start a server on a free port, and wait until it prints its address."""
    process = program.start("task=serve", "serve.port=0", *arguments)
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return Served(found[0])
    raise AssertionError(f"the server did not start: {said} {process.stderr and process.stderr.read()}")


def trained(program: Program, *arguments: str) -> str:
    """Train a small model. Returns the run's folder."""
    before = set(program.runs())
    program("mode=tensor", "backend=native", "style=classic", "sample.num_samples=1", *arguments)
    (run,) = set(program.runs()) - before
    return str(run)


NAMES = ("model.n_layer=2", "train.steps=200", "train.eval_every=50")
CHAT = ("data=chat", "model.n_embd=16", "model.n_layer=1", "model.block_size=64", "train.steps=30",
        "train.batch_size=4", "train.eval_documents=10", "sample.max_new_tokens=12")  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    yield from make_program(tmp_path_factory.mktemp("playground"))


@pytest.fixture(scope="module")
def names(program: Program) -> Served:
    return serve(program, f"checkpoint={trained(program, *NAMES)}")


@pytest.fixture(scope="module")
def chat(program: Program) -> Served:
    return serve(program, f"checkpoint={trained(program, *CHAT)}")


@pytest.fixture(scope="module")
def locked(program: Program) -> Served:
    """A server with a bigram and an API key."""
    return serve(program, f"checkpoint={trained(program, 'model=bigram', 'train.steps=50')}", f"serve.api_key={KEY}")


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    yield from launched_browser()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Open]:
    """Opens the page of a server, and finally checks for errors and for requests to other servers."""
    asked: set[str] = set()
    wrong: list[str] = []
    remarks: list[str] = []
    contexts = []
    refusals = [0]
    addresses: set[str] = set()

    def listen(page: "Page") -> None:
        page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.extend([said.text] if said.type in ("error", "warning") else []))

    def open_at(server: Served, section: str = "", refused: int = 0, gone: bool = False, **options: Any) -> "Page":
        """The browser may log errors for `refused` requests, or for any request if the server will be `gone`."""
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        listen(page)
        refusals[0] += refused
        remarks.append(r"status of (401|422)" + "|ERR_CONNECTION_(REFUSED|RESET)" * gone)
        page.goto(f"{server.address}/{section and '#' + section}")
        # A key pressed before the page knows its model goes nowhere: `page.press` does not wait for the field.
        page.locator("#room:visible, #key-form:visible, #page-error:visible").first.wait_for()
        addresses.add(server.address)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert [text for text in wrong if not re.search("|".join(remarks), text)] == []
    assert sum("status of" in text for text in wrong) == refusals[0]
    assert asked == addresses, "requests went elsewhere"


@pytest.mark.slow
def test_a_text_comes_with_the_candidates_of_each_token(names: Served, open_page: Open) -> None:
    page = open_page(names)
    page.fill("#prompt", "an")
    page.fill("#temperature", "0.8")
    page.fill("#seed", "7")
    page.click("#generate-form button[type=submit]")
    page.locator("#generate-status", has_text="Seed 7, temperature 0.8").wait_for()
    *tokens, end = names.ask("stream", prompt="an", temperature=0.8, seed=7, candidates=10)[1:]
    assert texts(page, "#tokens span.chip .glyph") == ["start", "a", "n"]
    drawn = page.locator("#tokens button")
    assert texts(page, "#tokens button .glyph") == [token["text"] or "end" for token in tokens]
    shares = [token["probability"] for token in tokens]
    shown = [float(text.strip("<>%")) / 100 for text in texts(page, "#tokens button .figure")]
    assert shown == pytest.approx(shares, abs=0.0051)
    heights = [float(chip.evaluate("chip => chip.style.getPropertyValue('--share')")) for chip in drawn.all()]
    assert heights == pytest.approx(shares)
    for number, token in enumerate(tokens):
        drawn.nth(number).click()
        assert page.locator("#candidates caption").inner_text() == f"Token {number + 1}: drawn from"
        rows = page.locator("#candidates tbody tr:not(.others)")
        glyphs = [candidate["text"] or "end" for candidate in token["candidates"]]
        assert texts(page, "#candidates tbody tr:not(.others) th")[: len(glyphs)] == glyphs
        marked = page.locator("#candidates tr.drawn")
        assert marked.locator("th").inner_text() == (token["text"] or "end")
        assert "drawn" in marked.inner_text()
        assert rows.count() in (len(glyphs), len(glyphs) + 1)
        bars = [bar.bounding_box() for bar in page.locator("#candidates tr:not(.drawn) .meter").all()]
        widths = [bar["width"] for bar in bars if bar]
        assert widths == sorted(widths, reverse=True), "longer bars are likelier"
    assert end["stop_reason"] == "end"
    assert "Ended by the model." in page.locator("#generate-status").inner_text()


@pytest.mark.slow
def test_step_draws_one_token_at_a_time_and_the_same_text(names: Served, open_page: Open) -> None:
    page = open_page(names)
    generate(page, "", seed="11", temperature="1")
    whole = texts(page, "#tokens button .glyph")
    page.fill("#seed", "12")  # another text in between
    page.click("#step")
    page.locator("#tokens button").first.wait_for()
    page.fill("#seed", "11")
    for count in range(1, len(whole) + 1):
        page.click("#step")
        page.locator("#generate-status", has_text=re.compile(rf"^{count} token")).wait_for()
        assert texts(page, "#tokens button .glyph") == whole[:count]
    assert "Seed 11" in page.locator("#generate-status").inner_text()


@pytest.mark.slow
def test_stop_keeps_what_was_drawn(names: Served, open_page: Open) -> None:
    page = open_page(names)
    page.select_option("#pace", "500")
    page.fill("#max-tokens", "200")
    page.fill("#temperature", "2")
    page.click("#generate-form button[type=submit]")
    page.locator("#tokens button").nth(1).wait_for()
    page.click("#stop")
    page.locator("#generate-status", has_text="Stopped.").wait_for()
    count = page.locator("#tokens button").count()
    page.wait_for_timeout(1200)
    assert page.locator("#tokens button").count() == count < 20
    assert page.locator("#stop").is_disabled()


@pytest.mark.slow
def test_attention_shows_every_head_of_every_layer(names: Served, open_page: Open) -> None:
    page = open_page(names)
    generate(page, "ann", max_tokens="3")
    page.click("#tab-attention")
    page.locator("#heads canvas").first.wait_for()
    assert page.locator("#heads canvas").count() == 2 * 4
    text = page.input_value("#attention-text")
    assert text.startswith("ann")
    answer = names.ask("attention", text=text)
    losses = [f"{loss:.2f}" for loss in answer["losses"][1:]]
    assert texts(page, "#losses .figure") == ["–", *losses]
    page.click("#heads button >> nth=6")  # layer 2, head 3
    assert page.locator("#head-title").inner_text() == "Layer 2, head 3"
    page.click("#losses button >> nth=2")
    assert page.locator("#head tr.chosen").get_attribute("data-row") == "2"
    row = answer["attention"][1][2][2]
    shown = [float(text.strip("<>")) / 100 for text in texts(page, "#head tr.chosen td") if text]
    assert shown == pytest.approx(row[:3], abs=0.0101)
    assert len(texts(page, "#row .chip")) == 3
    best = max(row)
    assert f"{best * 100:.1f} %" in page.locator("#reading").inner_text()
    # One pixel a share, and nothing above the diagonal
    alpha = """canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]
               .filter((_, i) => i % 4 === 3)"""
    count = len(answer["tokens"])
    expected = [255 if s <= t else 0 for t in range(count) for s in range(count)]
    assert page.locator("#heads canvas").nth(6).evaluate(alpha) == expected
    # The pointer over a map marks its row
    box = page.locator("#heads canvas").nth(0).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 1.5 * box["height"] / count)
    assert page.locator("#head tr.chosen").get_attribute("data-row") == "1"


@pytest.mark.slow
def test_a_chat_model_answers_in_turns_and_can_be_looked_into(chat: Served, open_page: Open) -> None:
    page = open_page(chat, "chat", refused=1)
    for count, message in ((1, "hello"), (2, "what is your name?"), (3, "and mine?")):
        page.fill("#message", message)
        page.press("#message", "Enter")
        page.locator("#chat-status", has_not_text="Answering").wait_for()
        page.locator(f"#turns .turn >> nth={2 * count - 1}").wait_for()
        page.locator("#chat-stop:disabled").wait_for()
    said = texts(page, "#turns .turn p:not(.who)")
    assert said[::2] == ["hello", "what is your name?", "and mine?"]
    answer = chat.ask("chat", messages=[{"role": "user", "content": "hello"}], temperature=0, seed=42)
    assert said[1] == answer["content"].strip()
    assert "no longer sees the oldest" in page.locator("#chat-status").inner_text()
    # What the model cannot read leaves no turn, and stays in the field
    page.fill("#message", "ÄÖ")
    page.press("#message", "Enter")
    page.locator("#chat-error", has_text="does not know").wait_for()
    assert page.locator("#turns .turn").count() == 6
    assert page.input_value("#message") == "ÄÖ"
    page.click("#chat-clear")
    assert page.locator("#turns .turn").count() == 0
    generate(page_at(page, "generate"), "hello", max_tokens="5")
    assert page.locator("#tokens button").count() >= 1
    page.click("#tab-attention")
    page.locator("#heads canvas").first.wait_for()
    assert page.input_value("#attention-question") == "hello"
    assert texts(page, "#losses .glyph")[:3] == ["start", "user", "h"]


def page_at(page: "Page", section: str) -> "Page":
    page.click(f"#tab-{section}")
    return page


@pytest.mark.slow
def test_a_model_that_is_not_for_chat_says_so(names: Served, open_page: Open) -> None:
    page = open_page(names, "chat")
    page.locator("#chat-none").wait_for()
    assert "not trained on conversations" in page.locator("#chat-none").inner_text()
    assert not page.locator("#message").is_visible()


@pytest.mark.slow
def test_the_page_trains_in_a_worker_and_goes_on_from_the_served_weights(names: Served, open_page: Open) -> None:
    page = open_page(names, "train")
    page.fill("#train-steps", "20")
    page.click("#train-run")
    page.locator("#train-status", has_text="Trained 20 steps").wait_for()
    from_random = page.inner_text("#train-progress")
    page.select_option("#train-start", "model")
    page.fill("#train-lr", "0.0001")
    page.click("#train-run")
    page.locator("#train-progress").filter(has_not_text=from_random).wait_for()
    page.locator("#train-status", has_text="Trained 20 steps").wait_for()
    before, after = (
        float(re.findall(r"\d\.\d+", text)[0]) for text in (from_random, page.inner_text("#train-progress"))
    )
    assert after < before - 0.3, "the served model has learnt something"
    with urllib.request.urlopen(f"{names.address}/microgpt/v1/weights") as answer:
        numbers = array("f", answer.read())
    assert len(numbers) == sum(rows * columns for rows, columns in tensor_shapes(names))
    with urllib.request.urlopen(f"{names.address}/worker.js") as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "worker-src 'self'" in policy
    assert "unsafe" not in policy


def tensor_shapes(served: Served) -> list[list[int]]:
    with urllib.request.urlopen(f"{served.address}/microgpt/v1/model") as answer:
        return [tensor["shape"] for tensor in json.load(answer)["tensors"]]


@pytest.mark.slow
def test_the_card_has_the_model_s_figures_and_its_curve(names: Served, open_page: Open) -> None:
    page = open_page(names, "model")
    page.locator("#curve svg[role=img]").wait_for()
    with urllib.request.urlopen(f"{names.address}/microgpt/v1/model") as answer:
        card = json.load(answer)
    facts = dict(zip(texts(page, "#facts dt"), texts(page, "#facts dd"), strict=True))
    assert facts["Parameters"] == f"{card['parameters']:,}"
    assert facts["Layers (n_layer)"] == "2"
    assert facts["Backend"] == "native"
    assert len(texts(page, "#vocabulary li")) == card["vocab_size"]
    assert page.locator("#tensors tbody tr").count() == len(card["tensors"])
    points = page.locator("#curve polyline.line").nth(1).get_attribute("points")
    assert points is not None
    assert len(points.split()) == len([line for line in card["history"] if line["val_loss"] is not None]) == 5
    assert "validation loss from" in (page.locator("#curve svg").first.get_attribute("aria-label") or "")


@pytest.mark.slow
def test_a_key_is_asked_for_where_one_is_needed(locked: Served, open_page: Open) -> None:
    page = open_page(locked, refused=2)
    page.locator("#key-why", has_text="requires a key").wait_for()
    assert not page.locator("#prompt").is_visible()
    page.fill("#key", "wrong")
    page.press("#key", "Enter")
    page.locator("#key-why", has_text="does not accept").wait_for()
    page.fill("#key", KEY)
    page.press("#key", "Enter")
    page.locator("#prompt").wait_for()
    assert not page.locator("#key-form").is_visible()
    generate(page, "a")
    # A bigram has no heads, and says so
    page_at(page, "attention").locator("#attention-status", has_text="no heads").wait_for()
    assert page.locator("#heads canvas").count() == 0
    page.reload()
    page.locator("#room").wait_for()
    assert not page.locator("#key-form").is_visible(), "the tab has kept it"
    page_at(page, "train").select_option("#train-start", "model")  # whose weights need the key
    page.click("#train-one")
    page.locator("#train-step-title", has_text="Step 1").wait_for()
    assert texts(page, "#train-tensors tbody th") == ["wte", "lm_head"]


@pytest.mark.slow
def test_mistakes_are_told_in_words_where_they_were_made(names: Served, open_page: Open) -> None:
    page = open_page(names, refused=3)
    page.fill("#prompt", "Zoë")
    page.press("#prompt", "Enter")
    alert = page.locator("#generate-error[role=alert]")
    alert.filter(has_text="'Z' 'ë'").wait_for()
    page.fill("#prompt", "")
    page.fill("#temperature", "")
    page.click("#step")
    alert.filter(has_text="Temperature: ").wait_for()
    assert page.evaluate("document.activeElement.id") == "temperature"
    generate(page, "", temperature="0.5")
    assert not alert.is_visible()
    page.click("#tab-attention")
    page.fill("#attention-text", "a\nb")
    page.press("#attention-text", "Enter")
    page.locator("#attention-error", has_text=r"'\n'").wait_for()
    page.fill("#attention-text", "a" * 40)
    page.press("#attention-text", "Enter")
    page.locator("#attention-error[role=alert]", has_text="16").wait_for()
    assert not page.locator("#attention-result").is_visible()


@pytest.mark.slow
def test_a_server_that_is_gone_is_told(program: Program, open_page: Open) -> None:
    page = open_page(serve(program, f"checkpoint={trained(program, 'train.steps=1')}"), gone=True)
    program.started[-1].kill()
    program.started[-1].wait()
    page.press("#prompt", "Enter")
    page.locator("#generate-error[role=alert]").wait_for()
    assert page.inner_text("#generate-error").startswith("The server does not answer")
    page_at(page, "attention").press("#attention-text", "Enter")
    page.locator("#attention-error[role=alert]").wait_for()
    assert page.inner_text("#attention-error").startswith("The server does not answer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("data: {", "broke off"),
        ('data: {"type": "start"}\n\n', "broke off"),
        ("data: nonsense\n\n", "broke off"),
        ('data: {"type": "error", "error": "the time is up"}\n\n', "the time is up"),
    ],
)
def test_an_answer_that_breaks_off_is_told(names: Served, open_page: Open, body: str, said: str) -> None:
    page = open_page(names)
    page.route("**/microgpt/v1/stream", lambda route: route.fulfill(status=200, body=body))
    page.press("#prompt", "Enter")
    page.locator("#generate-error", has_text=said).wait_for()
    page.unroute("**/microgpt/v1/stream")
    generate(page, "a")
    assert not page.locator("#generate-error").is_visible()


@pytest.mark.slow
def test_everything_can_be_reached_by_keyboard(names: Served, open_page: Open) -> None:
    page = open_page(names)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "tab-generate"
    for section in (*SECTIONS[1:], SECTIONS[0]):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == f"tab-{section}"
        assert [each for each in SECTIONS if page.locator(f"#{each}").is_visible()] == [section]
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "prompt"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"
    page.select_option("#pace", "0")
    page.locator("#prompt").focus()
    page.keyboard.press("Control+Enter")
    page.locator("#generate-status", has_text="Seed").wait_for()
    page.locator("#tokens button[tabindex='0']").focus()
    assert page.locator("#candidates caption").inner_text() == "Token 1: drawn from"
    page.keyboard.press("ArrowRight")
    assert page.locator("#candidates caption").inner_text() == "Token 2: drawn from"
    page_at(page, "attention").locator("#heads canvas").first.wait_for()
    page.locator("#heads button[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#head-title").inner_text() == "Layer 1, head 2"
    row = page.locator("#head tr.chosen").get_attribute("data-row")
    page.keyboard.press("ArrowUp")
    assert page.locator("#head tr.chosen").get_attribute("data-row") == str(int(row or 0) - 1)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_no_section_is_wider_than_its_window(
    names: Served, chat: Served, open_page: Open, width: int, scheme: str
) -> None:
    papers = {}
    for served in (names, chat):
        page = open_page(served, viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce")
        generate(page, "ab" * 7, temperature="2")
        page_at(page, "attention").locator("#heads canvas").first.wait_for()
        for section in SECTIONS:
            assert overflow(page_at(page, section)) <= 0, section
        if served is chat:
            page_at(page, "chat").fill("#message", "a" * 30)
            page.press("#message", "Enter")
            page.locator("#chat-stop:disabled").wait_for()
            assert overflow(page) <= 0
        papers[served.address] = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert page.locator(".chip").first.evaluate("chip => getComputedStyle(chip).transitionDuration") == "0s"
    expected = tuple(round(255 * channel) for channel in colours(scheme)["paper"])
    assert set(papers.values()) == {f"rgb{expected}"}
