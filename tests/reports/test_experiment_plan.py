"""Plans: the contrasts that are named before the runs begin, how they are checked, and where the report has them."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.report_rows import Sweep

from microgpt.errors import UserError
from microgpt.reports.document import json_text
from microgpt.reports.experiment_plan import Plan, check_plan, parsed, plan_of
from microgpt.reports.html import html
from microgpt.reports.markdown import markdown
from microgpt.reports.records import Collected
from microgpt.reports.sections import family_reports, page_report

LEVELS = {
    "model.tie_lm_head": [False, True], "optim.name": ["adam", "lion", "muon"], "optim.lr": [0.01, 0.003],
}  # fmt: skip
QUESTION = "Does lion need a smaller learning rate?"


def test_contrasts_are_read_with_short_keys_and_any_spelling_of_a_number():
    assert parsed("optim=adam - optim=lion", LEVELS).sides == ({"optim.name": "adam"}, {"optim.name": "lion"})
    two = parsed("optim=adam optim.lr=3e-3 - optim=lion optim.lr=0.010", LEVELS).sides
    assert two == ({"optim.name": "adam", "optim.lr": 0.003}, {"optim.name": "lion", "optim.lr": 0.01})
    assert parsed("tie_lm_head=true - tie_lm_head=false", LEVELS).sides == (
        {"model.tie_lm_head": True}, {"model.tie_lm_head": False},
    )  # fmt: skip
    assert parsed("optim", LEVELS).factors == ("optim.name",)
    for text in ("optim x model.tie_lm_head", "optim.name × tie_lm_head", "optim:tie_lm_head"):
        assert parsed(text, LEVELS).factors == ("optim.name", "model.tie_lm_head")


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (Plan(contrasts=("optim=adm - optim=lion",)), "optim=adm is no value of this sweep, in which optim is one of"),
        (Plan(contrasts=("seed",)), "seed is not swept; the keys that are swept are tie_lm_head, optim, optim.lr"),
        (Plan(contrasts=("optim=adam - optim",)), "'optim' is not a setting: write key=value"),
        (Plan(contrasts=("optim=adam",)), "is not a contrast: write key=value - key=value, a key, or key x key"),
        (Plan(contrasts=("optim x optim",)), "it names optim twice"),
        (Plan(contrasts=("optim=adam - optim=adam",)), "compares optim=adam with itself"),
        (Plan(contrasts=("optim.lr",), nuisance=("optim.lr",)), "optim.lr is not swept"),
        (Plan(nuisance=("model.n_embd",)), "report.nuisance=[model.n_embd]: model.n_embd is not swept"),
        (Plan(control="optim=sgd"), "report.control=optim=sgd: optim=sgd is no value of this sweep"),
    ],
)  # fmt: skip
def test_a_plan_that_is_not_about_the_sweep_is_one_sentence(plan, sentence):
    with pytest.raises(UserError) as error:
        check_plan(plan, LEVELS)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def planned_sweep(tmp_path: Path, report: dict[str, Any], generator: int = 1) -> Sweep:
    """Return a sweep of two optimizers and two rates in which only lion suffers from the larger rate."""
    sweep, rng = Sweep(tmp_path / "outputs"), np.random.default_rng(generator)
    for name, lr, seed in itertools.product(("adam", "lion", "muon"), (0.01, 0.003), range(12)):
        loss = 2.3 + 0.05 * (name == "lion" and lr == 0.01) + rng.normal(0, 0.01)
        sweep.add(seed, loss, optim__name=name, optim__lr=lr, report={**json.loads(json.dumps(EMPTY)), **report})
    return sweep


EMPTY = {"question": None, "contrasts": [], "control": None, "nuisance": []}
PLAN = {"question": QUESTION, "contrasts": ["optim=lion optim.lr=0.01 - optim=lion optim.lr=0.003", "optim x optim.lr"]}


def page_of(sweep: Sweep) -> Any:
    return page_report(Collected(sweep.rows), family_reports(sweep.rows, most_drawn=0))


def test_planned_contrasts_are_first_and_all_else_is_exploratory(tmp_path):
    page = page_of(planned_sweep(tmp_path, PLAN))
    text = markdown(page)
    question, else_ = text.index(QUESTION), text.index("What else the data show (exploratory")
    assert (
        question < text.index(f"{PLAN['contrasts'][0]}: val_loss is higher by 0.0") < else_ < text.index("### Effects")
    )
    analyses = json.loads(json_text(page))["sections"][0]["data"]["analyses"]
    planned = analyses["planned"]["contrasts"]
    assert [one["label"] for one in planned][:1] == [PLAN["contrasts"][0]]
    assert [one["verdict"] for one in planned] == ["shown", "shown", "not_shown"]
    # the same interaction has a narrower interval among three contrasts than among all effects
    by_label = {one["label"]: one for one in analyses["effects"]["effects"]}
    for one in planned[1:]:
        other = by_label[one["label"]]
        assert one["estimate"] == pytest.approx(other["estimate"])
        assert one["high"] - one["low"] < other["high"] - other["low"]


def test_without_a_plan_nothing_is_called_exploratory(tmp_path):
    text = markdown(page_of(planned_sweep(tmp_path, {})))
    assert "### What the data show" in text
    assert "exploratory" not in text
    text = markdown(page_of(planned_sweep(tmp_path / "question", {"question": QUESTION})))
    assert text.index(QUESTION) < text.index("### What the data show")


def test_a_control_leaves_only_the_comparisons_with_it(tmp_path):
    page = page_of(planned_sweep(tmp_path, {"control": "optim=muon"}))
    effects = json.loads(json_text(page))["sections"][0]["data"]["analyses"]["effects"]["effects"]
    main = {one["label"].partition(" with")[0] for one in effects if one["factors"] == ["optim.name"]}
    assert main == {"optim=adam against muon", "optim=lion against muon"}


def test_different_questions_of_one_sweep_are_told():
    plans = [{"report": {"question": "First?"}}, {"report": {"question": "Second?"}}, {}]
    assert plan_of(plans[:1]).remark == ""
    found = plan_of([plans[2], plans[0], plans[1]])
    assert found.question == "Second?"
    assert "2 of 3 runs were begun with another plan" in found.remark
    assert "none / “First?” / “Second?”" in found.remark
    assert plan_of([{}, {"report": 3}]) == Plan()


def test_a_contrast_whose_runs_failed_is_named(tmp_path):
    sweep = planned_sweep(tmp_path, PLAN)
    for row in list(sweep.rows):
        if row.setting("optim", "name") == "lion" and row.setting("optim", "lr") == 0.01:
            sweep.change(row, status="failed")
    assert f"{PLAN['contrasts'][0]}: there are no results for it." in markdown(page_of(sweep))


# The renderers


def test_the_page_the_markdown_and_the_json_say_the_same(tmp_path):
    page = page_of(planned_sweep(tmp_path, PLAN))
    text, document, shown = markdown(page), json.loads(json_text(page)), html(page)
    assert document["schema_version"] == 1
    sentences = [
        item for section in document["sections"] for block in section["blocks"] for item in block.get("items", [])
    ]
    assert len(sentences) > 5
    for sentence in sentences:
        assert sentence in text
        assert sentence.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in shown
    tables = [block for section in document["sections"] for block in section["blocks"] if block["type"] == "table"]
    for table in tables:
        for row in table["rows"]:
            assert "| " + " | ".join(row.get(column, "") for column in table["columns"]) + " |" in text
    variants = document["sections"][0]["data"]["variants"]
    assert [len(one["seeds"]) for one in variants] == [12] * 6
    assert all(one["low"] < one["mean"] < one["high"] for one in variants)


def test_markdown_shows_the_text_of_records_as_it_is(tmp_path):
    sweep = Sweep(tmp_path / "outputs")
    for seed, name in itertools.product(range(2), ("a|b\n<script>", "c")):
        sweep.add(seed, 2.0 + seed / 7, data__path=name, notes=name)
    text = markdown(page_of(sweep))
    assert "<script>" not in text
    assert "a\\|b &lt;script>" in text
