"""scripts/from_microgpt_to_llama.py: its table, and that all its changes together are model=llama."""

from pathlib import Path

import pytest
from support.program import load_script


@pytest.mark.slow
def test_all_changes_together_are_llama(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The eight changes of the page as one, since each costs a sweep; the script itself compares with model=llama."""
    script = load_script("from_microgpt_to_llama")
    changes = list(script.CHANGES.items())
    end = [name for name, _ in changes].index(script.IS_LLAMA)
    overrides = [override for _, change in changes[: end + 1] for override in change.split()]
    together = " ".join({override.partition("=")[0]: override for override in overrides}.values())
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- table -->\n\n| old |\n|---|\n\nafter\n")
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "CHANGES", {script.IS_LLAMA: together})
    assert script.main(["--backend", "torch", "--seeds", "2", "--steps", "3", "--write"]) == 0
    out = capsys.readouterr().out
    _, _, heading, _, first, second = out.splitlines()
    assert heading == "| model | parameters | val_loss | change | change alone |"
    assert first.startswith("| microgpt | 4,192 | ")
    assert second.startswith("| + init_std 0.02 | 5,008 | ")
    assert page.read_text() == "before\n\n<!-- table -->\n\n" + "\n".join(out.splitlines()[2:]) + "\n\nafter\n"

    monkeypatch.setattr(script, "CHANGES", {script.IS_LLAMA: f"{together} model.bias=true"})
    assert script.main(["--backend", "torch", "--seeds", "2", "--steps", "1"]) == 1
    assert "model=llama differs from microgpt with these changes" in capsys.readouterr().err


def test_the_page_has_a_row_for_each_change() -> None:
    script = load_script("from_microgpt_to_llama")
    table = script.TABLE.search(script.PAGE.read_text())
    assert table is not None
    rows = [row.split(" | ")[0].removeprefix("| ") for row in table[0].splitlines()[4:]]
    assert rows == ["microgpt", *(f"+ {name}" for name in script.CHANGES)]
