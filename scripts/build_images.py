"""Create the pictures of README.md and the guides, docs/images/*.png, from real runs.

    python scripts/build_images.py

Trains the ablation (256 models) and the model whose page is shown, then takes screenshots in headless Chromium
(packages playwright and chromium). docs/images/sources.json contains hashes of the files that determine how the report
and the page look; tests/test_readme.py fails if the hashes are out of date.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import harness
from build_docs import Commands

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
SOURCES = ("microgpt/serve/static/*", "microgpt/reports/report.*", "microgpt/reports/plot*.py")
ABLATION = "python -m microgpt experiment=ablation mode=tensor style=classic"
MODEL = "python -m microgpt mode=tensor style=classic train.steps=5000 train.batch_size=8"
PAGE = "python -m microgpt task=export checkpoint=latest export.format=html export.path=names.html"
MARGIN = 12  # pixels around the plots
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


def sources() -> dict[str, str]:
    """Return the hash of each set of files that determines how the pictures look."""
    return {
        pattern: hashlib.sha256(b"".join(path.read_bytes() for path in sorted(ROOT.glob(pattern)))).hexdigest()
        for pattern in SOURCES
    }


def as_json(hashes: dict[str, str]) -> str:
    return json.dumps(hashes, indent=2) + "\n"


def report_picture(page: "Page", folder: Path) -> None:
    page.goto((folder / "results" / "report.html").as_uri())
    boxes = [
        page.locator("figure").filter(has=page.get_by_text(title, exact=True)).first.bounding_box()
        for title in ("Distribution over seeds", "Effects")
    ]
    left, right = boxes
    assert left is not None
    assert right is not None
    page.screenshot(
        path=IMAGES / "report.png",
        full_page=True,
        clip={
            "x": left["x"] - MARGIN,
            "y": left["y"] - MARGIN,
            "width": right["x"] + right["width"] - left["x"] + 2 * MARGIN,
            "height": max(left["height"], right["height"]) + 2 * MARGIN,
        },
    )


def playground_picture(page: "Page", address: str) -> None:
    page.goto(address)
    page.locator("#prompt").fill("ma")
    page.locator("#generate").get_by_role("button", name="Generate").click()
    page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / "playground.png")


def training_picture(page: "Page", folder: Path) -> None:
    page.set_viewport_size({"width": 1000, "height": 800})
    page.goto(f"{(folder / 'names.html').as_uri()}#train")
    page.click("#train-run")
    page.locator("#train-status", has_text="Trained").wait_for()
    page.screenshot(path=IMAGES / "train.png")


def main() -> None:
    from playwright.sync_api import sync_playwright

    chromium = harness.chromium()
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        commands = Commands(Path(name) / "work")
        for command in (ABLATION, MODEL, PAGE):
            commands.run_command(command, "sh")
        commands.run_command("python -m microgpt task=serve checkpoint=latest", "sh")
        try:
            page = browser.new_page(viewport={"width": 1000, "height": 640}, device_scale_factor=1.5)
            report_picture(page, commands.folder)
            playground_picture(page, f"http://127.0.0.1:{commands.port}/")
            training_picture(page, commands.folder)
        finally:
            commands.close()
            browser.close()
    (IMAGES / "sources.json").write_text(as_json(sources()))
    print(f"files: {IMAGES}")


if __name__ == "__main__":
    sys.exit(harness.finish(main))
