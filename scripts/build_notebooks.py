"""Execute notebooks/microgpt.ipynb and store the outputs of its cells.

    python scripts/build_notebooks.py            execute the notebook and store its outputs
    python scripts/build_notebooks.py --check    change nothing; exit code 1 if the stored outputs are out of date

A cell is out of date if the kinds of its outputs have changed, or a word of its text, or a number by more than 2 %;
times, rates, dates and pictures are not compared.
"""

import copy
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import nbformat
from build_docs import ROOT, has_changed
from nbclient import NotebookClient

NOTEBOOK = ROOT / "notebooks" / "microgpt.ipynb"
CELL_SECONDS = 300
# Lines whose number depends on the speed of the machine and on whether the kernels are compiled already.
TIMED = re.compile(r"jobs |evaluated |compil|step (?!.*val_loss)")


def executed(notebook: Any, folder: Path) -> Any:
    """Return the notebook with the outputs of its cells, executed in `folder`. Raises CellExecutionError."""
    new = copy.deepcopy(notebook)
    for cell in new.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    jupyter = {key: str(folder / "jupyter") for key in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    before = dict(os.environ)
    os.environ.update(jupyter, PYTHONPATH=os.pathsep.join(paths))
    work = folder / "work"
    work.mkdir()
    try:
        client = NotebookClient(
            new,
            timeout=CELL_SECONDS,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(work)}},
        )
        client.execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    new.metadata = notebook.metadata
    return new


def changed_cells(stored: Any, new: Any) -> list[str]:
    """Return the ids of the cells whose outputs have changed."""
    pairs = zip(stored.cells, new.cells, strict=True)
    return [old.id for old, cell in pairs if kinds(old) != kinds(cell) or has_changed(text_of(old), text_of(cell))]


def kinds(cell: Any) -> list[str]:
    return [kind for output in cell.get("outputs", []) for kind in sorted(output.get("data") or [output.output_type])]


def text_of(cell: Any) -> str:
    """Return the printed and displayed text of a cell, without lines that depend on the time."""
    outputs = cell.get("outputs", [])
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(line for text in texts for line in text.splitlines() if not TIMED.match(line))


def main() -> int:
    parser = harness.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if outputs are out of date")
    check = parser.parse_args().check
    stored = nbformat.reads(NOTEBOOK.read_text(), as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        new = executed(stored, Path(folder))
    changed = changed_cells(stored, new)
    print(f"{NOTEBOOK.name}: {len(changed)} cells have changed {' '.join(changed)}".rstrip())
    if not check:
        NOTEBOOK.write_text(nbformat.writes(new) + "\n")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
