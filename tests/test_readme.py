"""The commands in README and the guides, their output, and statements of the documents about files."""

import re
from pathlib import Path

import build_docs
import build_images
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# Named by the documents but not files of the project: the reference, and the examples of docs/adding.md.
NOT_OURS = {"microgpt.py", "conf/optim/adagrad.yaml", "conf/style/pirate.yaml", "style/pirate.yaml"}


def set_up(name: str) -> str:
    found = re.search(rf"<!-- set-up: {name} -->\n```sh\n(.*?)\n```", README, re.DOTALL)
    assert found, f"README has no set-up command {name}"
    return found.group(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", build_docs.page_names())
def test_every_command_of_a_page_runs_and_prints_what_the_page_shows(name: str, tmp_path: Path) -> None:
    page = build_docs.read_page(build_docs.page_path(name))
    _, changed, ran = build_docs.build(page, tmp_path / "work")
    assert changed == []
    assert ran


def test_every_page_is_listed_in_the_site() -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f": {path.name}" not in site] == []


def test_the_output_of_a_page_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(
        "```sh\npython -c \"print('a', 1.00, '12 steps/s', *range(3), sep='\\n')\"\n```\n\n"
        '<!-- output: from="a" first=2 last=1 -->\n```text\na\n1.01\n...\n3\n```\n'
    )
    page = build_docs.read_page(path)
    text, changed, ran = build_docs.build(page, tmp_path / "work")
    assert text.endswith("```text\na\n1.0\n...\n2\n```\n")
    assert len(changed) == len(ran) == 1


@pytest.mark.parametrize(
    ("shown", "printed", "changed"),
    [
        ("loss 2.345", "loss 2.346", False),
        ("loss 2.345", "loss 2.5", True),
        ("120.1 steps/s | eta 0:00:04", "9.5 steps/s | eta 0:01:00", False),
        ("outputs/2026-01-01/10-00-00_0123abcd", "outputs/2027-02-02/11-11-11_4567abcd", False),
        ("sample 1: anna", "sample 1: annb", True),
        ("one", "one 2", True),
    ],
)
def test_what_counts_as_changed(shown: str, printed: str, changed: bool) -> None:
    assert build_docs.has_changed(shown, printed) is changed


def test_a_table_of_times_is_compared_without_its_numbers() -> None:
    assert not build_docs.has_changed("| eager | 4.5 | 1,141 |", "| eager | 12.25 | 876 |", compares_numbers=False)
    assert build_docs.has_changed("| eager | 4.5 | 1,141 |", "| eager | failed | 876 |", compares_numbers=False)


def test_the_pictures_are_those_of_the_present_page_and_report() -> None:
    recorded = (ROOT / "docs" / "images" / "sources.json").read_text()
    assert recorded == build_images.as_json(build_images.sources()), "run python scripts/build_images.py"


def test_ci_runs_the_readmes_own_set_up_commands() -> None:
    assert set_up("run").endswith("python -m microgpt mode=scalar style=classic train.steps=500")
    assert set_up("test").endswith("python -m pytest")
    script = (ROOT / ".ci" / "run").read_text()
    assert "readme_command run" in script
    assert "readme_command test" in script


def test_every_link_of_the_documents_leads_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            if not (page.parent / target).exists():
                broken.append((page.name, target))
    assert not broken


def test_no_document_has_the_marks_of_a_merge() -> None:
    texts = {
        path.name: path.read_text()
        for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    }
    assert [name for name, text in texts.items() if re.search(r"^(<{7}|>{7}) ", text, re.MULTILINE)] == []


def test_the_documents_name_only_files_that_exist() -> None:
    missing = []
    for page in [ROOT / "docs" / "architecture.md", ROOT / "docs" / "adding.md", *(ROOT / "docs/decisions").iterdir()]:
        for name in re.findall(r"\b(?:[a-z_]+/)+(?:[a-z_]+\.(?:py|md|yaml))?|\b[a-z_]+\.py\b", page.read_text()):
            places = (ROOT, ROOT / "microgpt", ROOT / "microgpt" / "engines", page.parent)
            if name in NOT_OURS:
                continue
            if not any((place / name).exists() for place in places) and not list((ROOT / "microgpt").rglob(name)):
                missing.append((page.name, name))
    assert not missing


def test_every_package_stands_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.split("## Packages", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"\b([a-z_]+(?:\.py|/))", " ".join(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE))))
    found = {path.name + ("/" if path.is_dir() else "") for path in (ROOT / "microgpt").iterdir()}
    assert found - named - {"py.typed"} == {name for name in found if name.startswith("__")}
