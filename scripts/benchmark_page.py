"""Measure the exported page in headless Chromium: its size, and training steps and generated tokens per second.

    python scripts/benchmark_page.py                 microgpt's default model, and model=gpt_chat
    python scripts/benchmark_page.py --steps 50000   more training steps

The models have random weights. Steps per second are the page's own figure, without the time for drawing pictures. Steps
per second of CPU time, which depend less on other programs, include the pictures and count the thread of the worker
(Linux only). Requires the playwright package, and chromium or google-chrome on PATH.
"""

import base64
import re
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import harness
import numpy as np
import psutil

from microgpt.data.tokenizer import CHAT_SPECIAL
from microgpt.engines.base import EngineState
from microgpt.model.spec import ModelSpec
from microgpt.runs.checkpoint import load_checkpoint, write_checkpoint
from microgpt.runs.checkpoint_format import Meta, Progress
from microgpt.tasks.html_page import html_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

NAMES = ModelSpec("gpt", vocab_size=27, n_embd=16, n_head=4, n_layer=1, block_size=16)
CHAT = replace(NAMES, vocab_size=82, n_embd=128, n_head=8, n_layer=4, block_size=256)  # model=gpt_chat
TOKENS = 200


def export_page(folder: Path, spec: ModelSpec, special: tuple[str, ...] = ()) -> Path:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.02, (1, *shape)).astype(np.float32) for name, shape in spec.shapes().items()}
    chars = [chr(ord("a") + i) for i in range(spec.vocab_size - 1 - len(special))]
    checkpoint = folder / "checkpoint"
    write_checkpoint(checkpoint, Meta(spec, chars, "float32", "gpt", {}, special), EngineState(weights), Progress(1))
    page = folder / "page.html"
    page.write_bytes(html_page(load_checkpoint(checkpoint), weights))
    plain = sum(len(base64.b64encode(array.tobytes())) for array in weights.values())
    size = page.stat().st_size
    print(f"{spec.parameter_count():,} parameters: {size:,} bytes, of which {plain:,} are the weights in base64")
    return page


def worker_seconds() -> float:
    """Return the CPU time of all worker threads of this process's browser."""
    return sum(
        thread.user_time + thread.system_time
        for process in psutil.Process().children(recursive=True)
        for thread in process.threads()
        if Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text().startswith("DedicatedWorker")
    )


def time_training(page: "Page", steps: int) -> None:
    """Train from random weights on the bundled names."""
    page.click("#tab-train")
    page.fill("#train-steps", str(steps))
    page.click("#train-run")
    page.locator("#train-status", has_text=re.compile("^Trained")).wait_for(timeout=600_000)
    found = re.search(r"([\d,]+) steps a second", page.inner_text("#train-progress"))
    assert found is not None
    print(f"{found[1]} training steps a second")
    if sys.platform == "linux":
        print(f"{steps / worker_seconds():,.0f} training steps per second of CPU time")


def tokens_per_second(page: "Page") -> float:
    page.select_option("#pace", "0")
    page.fill("#temperature", "100")  # the model ends a text with 4 tokens of 82, so that most texts are long enough
    page.fill("#prompt", "hello")
    page.fill("#max-tokens", str(TOKENS))
    counts, seconds = 0, 0.0
    for _ in range(10):
        start = time.perf_counter()
        page.click("#another")
        page.locator("#generate-status", has_text="Seed").wait_for()
        seconds += time.perf_counter() - start
        counts += page.locator("#tokens button").count()
    return counts / seconds


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = harness.chromium()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for label, spec, special in (("names", NAMES, ()), ("chat", CHAT, CHAT_SPECIAL)):
            folder = Path(name) / label
            folder.mkdir()
            page = browser.new_page()
            page.goto(export_page(folder, spec, special).as_uri())
            page.locator("#room").wait_for()
            if special:
                print(f"{tokens_per_second(page):,.0f} generated tokens a second, as they are shown")
            else:
                time_training(page, arguments.steps)
        browser.close()


if __name__ == "__main__":
    sys.exit(harness.finish(main))
