"""The notebooks are valid and run on any machine; what microgpt.ipynb shows is what it prints when executed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.fake_gpu import ROOT, Machine

NOTEBOOK = ROOT / "notebooks" / "colab_gpu_benchmark.ipynb"


def read_notebook() -> dict[str, Any]:
    return json.loads(NOTEBOOK.read_text())


def test_the_notebook_is_valid_and_has_no_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.reads(NOTEBOOK.read_text(), as_version=4))
    notebook = read_notebook()
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def execute(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sources: Mapping[str, str] | None = None, **variables: str
) -> tuple[dict[str, str], str | None]:
    """Run the notebook in a folder; return the output of each code cell by its id, and the error that ended it.

    `sources` replaces the sources of cells.
    """
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    client = pytest.importorskip("nbclient")
    places = {key: str(folder / "jupyter") for key in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    for key, value in {"REPO_DIR": str(ROOT), **places, **variables}.items():
        monkeypatch.setenv(key, value)
    notebook = nbformat.reads(NOTEBOOK.read_text(), as_version=4)
    for cell in notebook.cells:
        cell.source = (sources or {}).get(cell.id, cell.source)
    work = folder / "work"
    work.mkdir()
    runner = client.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(work)}})
    ended = None
    try:
        runner.execute()
    except client.exceptions.CellExecutionError as error:
        ended = f"{error.ename}: {error.evalue}"
    shown = {}
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
        markdown = [output.get("data", {}).get("text/markdown", "") for output in outputs]
        shown[cell.id] = "".join(texts + markdown)
    return shown, ended


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = Machine(tmp_path / "fakes")
    fakes.folder.mkdir()
    fakes.make().no_network()
    (fakes.folder / "bin" / "git").unlink()  # every run reads the commit
    monkeypatch.setenv("PATH", f"{fakes.folder / 'bin'}:{os.environ['PATH']}")
    shown, ended = execute(tmp_path, monkeypatch, DRY_RUN="1", BASELINE="all")
    assert ended is None
    assert "is installed" in shown["install"]
    assert "verdict: " in shown["doctor"]
    assert shown["engines"].count("using_gpu=") >= 2 * 2  # each engine says it when it begins and when it ends
    assert "tokens_per_sec" in shown["engines"].split("mode=tensor")[-1]
    assert "would clone" in shown["comparison"]
    assert "this was a dry run" in shown["table"]
    assert fakes.calls() == []
    assert not (tmp_path / "work" / "results").exists()


@pytest.mark.slow
def test_the_notebook_reports_a_missing_checkout_and_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    _, ended = execute(elsewhere, monkeypatch, REPO_DIR=str(elsewhere), REPO="")
    assert ended
    assert ended.startswith("RuntimeError: there is no checkout here: set REPO in the first cell")
    # The test above runs these cells, which take long.
    before = {"doctor": "HAS_GPU = False", "engines": "from IPython.display import Markdown, display"}
    shown, ended = execute(
        tmp_path, monkeypatch, before, REPO_DIR=str(ROOT), DRY_RUN="0", BASELINE="microgpt", MICROGPT_FILE="none.py"
    )
    assert ended
    assert ended.startswith("RuntimeError: the comparison did not succeed (exit code ")
    assert "none.py" in shown["comparison"]


@pytest.mark.slow
def test_the_lesson_shows_what_its_cells_print(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("nbclient")
    import build_notebooks

    stored = nbformat.reads(build_notebooks.NOTEBOOK.read_text(), as_version=4)
    nbformat.validate(stored)
    assert [cell.id for cell in stored.cells if cell.cell_type == "code" and not cell.outputs] == []
    assert build_notebooks.changed_cells(stored, build_notebooks.executed(stored, tmp_path)) == []
    other = json.loads(json.dumps(stored).replace("loss 2.25", "loss 2.52"))
    assert build_notebooks.changed_cells(stored, nbformat.from_dict(other)) == ["value"]
