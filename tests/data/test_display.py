r"""Control characters of a corpus are escaped wherever its text is shown: on the terminal and in samples.txt."""

import unicodedata

import pytest
from support.program import Program, read_record

from microgpt.data.display import escaped, samples_file


@pytest.mark.parametrize(("text", "shown"), [
    ("\x1b[2Jred\x07", r"\x1b[2Jred\x07"), ("a\0b", r"a\x00b"), ("a\rb\x7f", r"a\rb\x7f"),
    ("\x9b31m\x85", r"\x9b31m\x85"),
    ("\u202eabc\u2066d\u2069", r"\u202eabc\u2066d\u2069"), ("a\u2028b", r"a\u2028b"),
    ("zoë\tline\n日本\U0001f600\u200d \\", "zoë\tline\n日本\U0001f600\u200d \\"),
])  # fmt: skip
def test_control_characters_are_escaped_and_others_stay(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_every_control_character_of_unicode_is_escaped() -> None:
    for code in range(0x110000):
        char = chr(code)
        controls = unicodedata.category(char) in ("Cc", "Zl", "Zp") and char not in "\t\n"
        turns = unicodedata.bidirectional(char) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
        assert (escaped(char) != char) == (controls or turns), hex(code)


def test_samples_file_has_a_sample_a_line_or_a_line_before_each() -> None:
    assert samples_file([]) == ""
    assert samples_file(["emma", "", "a\x1bb\r"]) == "emma\n\na\\x1bb\\r\n"
    assert samples_file(["to be\nor", "not"]) == "--- sample 1 ---\nto be\nor\n--- sample 2 ---\nnot\n"


@pytest.mark.slow
def test_terminal_and_samples_file_show_no_control_character(microgpt: Program) -> None:
    text = "".join(f"\x1b[3{i % 8}mab\x07\0\u202e\x9b\n" for i in range(80))
    (microgpt.folder / "a.txt").write_text(text)
    data = "data=text", "data.path=a.txt", "data.format=stream", "model.block_size=16", "style=classic"
    done = microgpt("experiment=debug", *data, "sample.num_samples=3", "sample.temperature=1")
    run = microgpt.only_run()
    sampled = microgpt("task=sample", "checkpoint=latest", "sample.num_samples=3", "sample.prompt='\x1b'")
    shown = (run / "samples.txt").read_text()
    for output in (done.stdout, sampled.stdout, shown, microgpt("task=info", "checkpoint=latest").stdout):
        assert output == escaped(output)
    assert "\\x1b" in sampled.stdout
    record = read_record(run)
    assert any("\x1b" in sample or "\0" in sample for sample in record["samples"]), "the record has the text itself"
    assert shown == samples_file(record["samples"])
    assert shown.startswith("--- sample 1 ---\n")
