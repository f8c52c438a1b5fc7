"""Hooks for mkdocs.yml: README.md becomes the first page of the site, and links out of docs/ lead to pages of it.

The site contains the page of `task=export export.format=html`, with a model that is trained for it.
"""

import re
import tempfile
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files  # pyright: ignore[reportMissingImports] (of the extra docs)

import microgpt
from microgpt.runs.checkpoint import load_checkpoint
from microgpt.runs.checkpoint_paths import resolve_checkpoint
from microgpt.tasks.export import html_files

ROOT = Path(__file__).resolve().parents[1]
SCALAR = "microgpt/engines/scalar/"
PLAYGROUND = "playground.html"
OPTIONS = ("mode=tensor", "style=classic", "train.steps=5000", "train.batch_size=8")  # of its model, as in README.md


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "index.md", content=from_readme((ROOT / "README.md").read_text())))
    files.append(File.generated(config, "decisions/index.md", content=list_of_decisions()))
    files.append(File.generated(config, PLAYGROUND, content=playground()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri.count("/") == 0:
        markdown = markdown.replace("](../README.md)", "](index.md)").replace("](decisions/)", "](decisions/index.md)")
    return markdown


def from_readme(text: str) -> str:
    """Return README.md with links relative to docs/, and with a link to the playground before the first picture."""
    text = text.replace(
        "\n![", f"\n**[Try it in your browser]({PLAYGROUND})**: watch a model write names, and train one.\n\n![", 1
    )
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(rf"\]\({SCALAR}\w+\.py\)", "](scalar.md)", text)
    return re.sub(r"\[([^]]+)\]\((notebooks/[^)]+)\)", r"\1 (`\2`)", text)


@cache
def playground() -> bytes:
    """Return the exported page of a model, which is trained in a few seconds."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        run = microgpt.train(*OPTIONS, f"outputs_dir={folder}")
        files, _ = html_files(load_checkpoint(resolve_checkpoint(str(run.folder), folder)), "float32")
    return next(iter(files.values()))


def list_of_decisions() -> str:
    """Return a page with links to all decisions."""
    lines = []
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        title = path.read_text().splitlines()[0].removeprefix("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(["# Decisions", "", *lines, ""])
