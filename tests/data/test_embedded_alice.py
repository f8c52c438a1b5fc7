"""The embedded running text is what its script builds, and works as a running text and as documents."""

import subprocess

import pytest
from support.program import load_script

from microgpt.data.corpus import build_corpus
from microgpt.data.sources import read_source

DIGEST = "6b8584aad5b3"  # the beginning of its SHA-256


def test_the_text_has_not_changed() -> None:
    source = read_source("alice", None)
    assert source.sha256.startswith(DIGEST), "state the change in CHANGELOG.md and change DIGEST"
    assert source.text.startswith("CHAPTER I\nDown the Rabbit-Hole\nAlice was beginning to get very tired")


def test_paragraphs_lose_line_breaks_and_the_additions_of_an_editor() -> None:
    lines = (
        "TITLE",
        "EDITION 2",
        "",
        "  CHAPTER I",
        "",
        "  Alice  was",
        "tired.",
        "",
        " * * *",
        "",
        "[later: no]",
        "",
        "END",
    )
    text = "\r\n".join([*lines, "\x1a"])
    assert load_script("build_alice").paragraphs(text) == ["CHAPTER I", "Alice was tired.", "END"]


@pytest.mark.slow
def test_the_embedded_file_is_what_its_script_builds(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = load_script("build_alice").main(["--check"])
    except subprocess.CalledProcessError:
        pytest.skip("pip cannot download the source distribution of brotli here")
    assert code == 0, capsys.readouterr().out


@pytest.mark.parametrize(("text_format", "documents"), [("stream", 4428), ("lines", 813)])
def test_it_is_one_text_or_a_document_for_each_paragraph(text_format: str, documents: int) -> None:
    corpus = build_corpus(
        read_source("alice", None), text_format=text_format, long_documents="window", val_fraction=0.1, split_seed=0,
        block_size=32,
    )  # fmt: skip
    assert (corpus.documents, corpus.tokenizer.vocab_size) == (documents, 68 if text_format == "stream" else 67)
