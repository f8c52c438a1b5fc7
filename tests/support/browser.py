"""The browser that tests of a page drive."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome", "chrome") if (path := shutil.which(name))), None
)


def launched_browser() -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
    if CHROMIUM is None:
        pytest.skip("needs Chromium or Chrome on PATH")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def generate(page: "Page", prompt: str, **fields: str) -> None:
    """Fill in the form, press Enter, and wait for the end of the text."""
    page.select_option("#pace", "0")
    for name, value in fields.items():
        page.fill(f"#{name.replace('_', '-')}", value)
    page.fill("#prompt", prompt)
    page.press("#prompt", "Enter")
    page.locator("#generate-status", has_text="Seed").wait_for()


def texts(page: "Page", selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


def overflow(page: "Page") -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
