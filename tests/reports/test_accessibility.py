"""The page of the report in a browser: no violation that axe-core finds, and tables that fit."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from support.browser import launched_browser, overflow
from support.report_rows import Sweep

from microgpt.reports.collect import collect

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REPORT = {
    "question": "Does lion need a smaller learning rate?", "contrasts": ["optim x optim.lr"], "control": None,
    "nuisance": [],
}  # fmt: skip
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    yield from launched_browser()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a sweep of three keys with a failed run, and of an ablation."""
    folder, rng = tmp_path_factory.mktemp("accessible"), np.random.default_rng(1)
    sweep = Sweep(folder / "outputs")
    for name, lr, activation in itertools.product(("adam", "lion", "muon"), (0.01, 0.003), ("relu", "gelu")):
        for seed in range(6):
            loss = 2.3 + 0.05 * (name == "lion" and lr == 0.01) + rng.normal(0, 0.01)
            failed = name == "muon" and seed == 5
            sweep.add(
                seed, None if failed else loss, status="failed" if failed else "completed", optim__name=name,
                optim__lr=lr, model__activation=activation, report=REPORT,
                evaluations=[(0, 3.3), (500, loss + 0.2), (1000, loss)],
            )  # fmt: skip
    ablation = Sweep(folder / "outputs", "ablation_89abcdef")
    for tied, normed, seed in itertools.product((True, False), (True, False), range(4)):
        ablation.add(seed, 2.3 + rng.normal(0, 0.01), model__tie_lm_head=tied, model__input_rmsnorm=normed)
    collect([folder / "outputs"], folder / "results")
    return folder / "results" / "report.html"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(browser: "Browser", page_file: Path, scheme: Literal["light", "dark"]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    page = browser.new_context(color_scheme=scheme, bypass_csp=True).new_page()  # the page allows no scripts
    page.goto(page_file.as_uri())
    rules = {"runOnly": RULES if scheme == "light" else {"type": "rule", "values": ["color-contrast"]}}
    found = axe.Axe().run(page, options=rules).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:200]) for one in found] == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_fits_its_window_and_wide_tables_scroll_by_themselves(
    browser: "Browser", page_file: Path, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(page_file.as_uri())
    assert overflow(page) == 0
    too_wide = (
        "[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.ariaLabel)"
    )
    if width == 1200:
        assert page.evaluate(too_wide) == []
    assert page.evaluate("[...document.querySelectorAll('.wide')].every(e => e.tabIndex === 0)")
