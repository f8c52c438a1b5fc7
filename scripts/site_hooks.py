"""Hooks for mkdocs.yml: README.md becomes the first page of the site, and links out of docs/ lead to pages of it."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files  # pyright: ignore[reportMissingImports] (of the extra docs)

ROOT = Path(__file__).resolve().parents[1]
SCALAR = "microgpt/engines/scalar/"


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, "index.md", content=from_readme((ROOT / "README.md").read_text())))
    files.append(File.generated(config, "decisions/index.md", content=list_of_decisions()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri.count("/") == 0:
        markdown = markdown.replace("](../README.md)", "](index.md)").replace("](decisions/)", "](decisions/index.md)")
    return markdown


def from_readme(text: str) -> str:
    """Return README.md with links relative to docs/."""
    text = re.sub(r"\]\(docs/", "](", text)
    text = re.sub(rf"\]\({SCALAR}\w+\.py\)", "](scalar.md)", text)
    return re.sub(r"\[([^]]+)\]\((notebooks/[^)]+)\)", r"\1 (`\2`)", text)


def list_of_decisions() -> str:
    """Return a page with links to all decisions."""
    lines = []
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        title = path.read_text().splitlines()[0].removeprefix("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(["# Decisions", "", *lines, ""])
