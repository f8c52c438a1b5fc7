"""docs/findings.md has the stored figures, and --check reports those that new runs do not confirm."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.program import load_script

from microgpt.reports.report import Analysis


@pytest.fixture(scope="module")
def findings() -> ModuleType:
    return load_script("build_findings")


@pytest.fixture(scope="module")
def stored(findings: ModuleType) -> dict[str, Any]:
    return json.loads(findings.STORED.read_text())


def test_the_page_has_the_stored_figures(findings: ModuleType, stored: Mapping[str, Any]) -> None:
    page = findings.PAGE.read_text()
    assert findings.with_blocks(page, stored) == page
    assert {name: list(found) for name, found in stored.items() if name != "sentences"} == {
        name: list(study.texts) for name, study in findings.STUDIES.items()
    }
    shown = {name for name, _ in (key.rsplit("-", 1) for key in re.findall(r"<!-- findings: (\S+) -->", page))}
    assert shown == set(findings.STUDIES)
    pictures = re.findall(r"\]\((images/\S+)\)", page)
    assert [name for name in pictures if not (findings.DOCS / name).is_file()] == []


def test_sentences_say_on_which_effects_the_texts_agree(findings: ModuleType) -> None:
    up, down, none, wide = (
        findings.Figure(*numbers) for numbers in ((2, 1, 3), (-2, -3, -1), (0, -0.25, 0.5), (0, -2, 1))
    )
    texts = {
        "a": {"up": up, "down": down, "mixed": up, "one": up, "none": none},
        "b": {"up": up, "down": down, "mixed": down, "one": none, "none": wide},
    }
    assert findings.sentences(list(texts["a"]), texts).splitlines() == [
        "- Lower loss on all texts: down.",
        "- Higher loss on all texts: up.",
        "- Opposite on the texts: mixed.",
        "- Shown on one text only: one.",
        "- Shown on no text: none.",
        "- No effect of those is larger than 0.500 on a or 2.000 on b.",
    ]


def test_check_reports_figures_that_are_not_confirmed(
    findings: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = findings.STUDIES["scaling"]
    numbers = {"E": [1.0, 0.9, 1.1], "exponent of N": [0.5, 0.4, 0.6]}
    file = tmp_path / "findings.json"
    file.write_text(json.dumps({"scaling": dict.fromkeys(study.texts, numbers)}))
    monkeypatch.setattr(findings, "STORED", file)
    new = {"E": findings.Figure(1.2, 1.05, 1.3), "exponent of N": findings.Figure(0.7, 0.62, 0.8)}
    monkeypatch.setattr(findings, "run", lambda name, text, folder: findings.Result(new, Analysis()))
    assert findings.main(["--check", "--only", "scaling"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "scaling, names, exponent of N: 0.50 [0.40, 0.60] was stored, 0.700 [0.620, 0.800] is found",
        "scaling, Alice, exponent of N: 0.50 [0.40, 0.60] was stored, 0.700 [0.620, 0.800] is found",
        "2 of 4 figures agree within their intervals",
    ]
    new["exponent of N"] = findings.Figure(0.6, 0.55, 0.65)
    assert findings.main(["--check", "--only", "scaling"]) == 0
