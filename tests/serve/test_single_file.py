"""The page as one file: modules become a script, its content, and rejected modules."""

import gzip
import re
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from support.models import OPTIONS, bigram, gpt, with_options

from microgpt.data.tokenizer import CHAT_SPECIAL
from microgpt.errors import UserError
from microgpt.serve import single_file
from microgpt.serve.card import MAX_TRAINABLE, packed_weights, why_not_trainable
from microgpt.tasks import html_page
from microgpt.tasks.html_page import front_coded, refuse_unsupported


def written(folder: Path, **modules: str) -> None:
    for name, source in modules.items():
        (folder / f"{name}.js").write_text(source)


def test_modules_become_functions_in_the_order_of_their_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_file, "STATIC", tmp_path)
    written(
        tmp_path,
        main='import {\n  one,\n  two as second,\n} from "./numbers.js";\nimport { ask } from "./api.js";\nask(one);\n',
        numbers='import { ask } from "./api.js";\nexport const one = 1;\nexport function* two() {}\n',
        api="export async function ask() {}\n",
        local="export class Refused {}\nexport async function ask() {}\n",
    )
    assert single_file.script_of("main.js", {"api.js": "local.js"}) == (
        '"use strict";\n'
        "const $local = (() => {\nclass Refused {}\nasync function ask() {}\nreturn { Refused, ask };\n})();\n\n"
        "const $numbers = (() => {\nconst { ask } = $local;\nconst one = 1;\nfunction* two() {}\n"
        "return { one, two };\n})();\n\n"
        "const $main = (() => {\nconst { one, two: second } = $numbers;\nconst { ask } = $local;\nask(one);\n})();\n"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            'import { two } from "./other.js";\nexport const one = 1;\n',
            "import each other: main.js -> other.js -> main.js",
        ),
        ("export let one = 1;\n", "cannot be inlined: export let one = 1;"),
        ('import * as other from "./other.js";\n', r"cannot be inlined: import \* as other"),
        ('const text = "</SCRIPT>";\n', "contains </script or <!--"),
    ],
)
def test_what_cannot_be_inlined_is_an_error(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_file, "STATIC", tmp_path)
    written(tmp_path, main=source, other='import { one } from "./main.js";\nexport const two = 2;\n')
    with pytest.raises(ValueError, match=message):
        single_file.script_of("main.js")


def test_the_page_holds_everything_and_names_no_other_address() -> None:
    page = single_file.single_file({"data-model": "AAAA"})
    assert '<script type="text/plain" id="data-model">AAAA</script>' in page
    assert set(re.findall(r"https?://[^\s\"')]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.findall(r'<link[^>]+stylesheet|\bsrc="|href="(?!data:)', page)
    worker = re.search(r'id="script-worker">(.*?)</script>', page, re.S)
    assert worker is not None
    script = gzip.decompress(b64decode(worker[1])).decode()
    assert script == single_file.script_of("worker.js")
    assert not re.findall(r"\b(?:document|window)\.", script), "a worker has no page"


def test_names_are_stored_in_alphabetical_order_by_what_they_share() -> None:
    assert front_coded(["mia", "ann", "anna", "mila"]) == "AannDaAmiaCla"


def test_weights_are_packed_in_the_order_of_the_card() -> None:
    spec = gpt(tie_lm_head=True)
    parameters = {name: np.random.default_rng(0).normal(size=(1, *shape)) for name, shape in spec.shapes().items()}
    packed = np.frombuffer(packed_weights(spec, dict(reversed(parameters.items()))), "<f4")
    expected = np.concatenate([parameters[name].ravel() for name in spec.shapes()])
    np.testing.assert_array_equal(packed, expected.astype(np.float32))


def test_a_model_that_the_page_cannot_train_says_why() -> None:
    assert why_not_trainable(bigram(), ()) is None
    assert "conversations" in (why_not_trainable(gpt(), CHAT_SPECIAL) or "")
    assert "position=rope, activation=silu" in (why_not_trainable(gpt(position="rope", activation="silu"), ()) or "")
    assert f"{MAX_TRAINABLE:,}" in (why_not_trainable(gpt(n_embd=1000), ()) or "")


def test_a_model_that_the_page_cannot_compute_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OPTIONS:
        refuse_unsupported(with_options(name, residual_init="zero"))
    with pytest.raises(
        UserError, match=r"export\.format=html .* model\.position=alibi; it supports only learned and rope and none"
    ):
        refuse_unsupported(gpt(position="alibi"))
    monkeypatch.setattr(html_page, "NUMBERS", [key for key in html_page.NUMBERS if key != "logit_softcap"])
    with pytest.raises(
        UserError, match=r"model\.logit_softcap=3\.0; it supports only None"
    ):  # as of an option that is added later
        refuse_unsupported(gpt(logit_softcap=3.0))
