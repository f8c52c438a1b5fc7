"""The explained step is the scalar engine's, and its graph is drawn without boxes that overlap."""

import random
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import ADAM, EACH_OPTIMIZER, bigram, gpt, shown
from support.program import ROOT

from microgpt.data.tokenizer import Tokenizer
from microgpt.engines.optimizer import OptimizerSpec
from microgpt.engines.scalar.engine import ScalarModel
from microgpt.explain.graph import svg, tiny_graph
from microgpt.explain.layout import Place, layout
from microgpt.explain.lesson import lesson, plain_text
from microgpt.explain.step import training_step
from microgpt.model.init import init_parameters
from microgpt.model.spec import ModelSpec

MODERN = gpt(
    position="none", norm="layernorm", norm_gain=True, bias=True, qk_norm=True, final_norm=True, gated_mlp=True,
    activation="silu", tie_lm_head=True, logit_softcap=5.0,
)  # fmt: skip
SPECS = [gpt(), gpt(activation="gelu", input_rmsnorm=False), MODERN, bigram(vocab_size=5, n_embd=5)]
LETTERS = Tokenizer.of(["abcd"])
DOCUMENT = [LETTERS.bos, 0, 1, 1, LETTERS.bos]  # abb


@pytest.mark.parametrize("optimizer", EACH_OPTIMIZER.values(), ids=EACH_OPTIMIZER)
@pytest.mark.parametrize("spec", SPECS, ids=shown)
def test_the_step_is_that_of_the_scalar_engine(spec: ModelSpec, optimizer: OptimizerSpec) -> None:
    matrices = init_parameters(spec, random.Random(1))
    step = training_step(spec, matrices, DOCUMENT, LETTERS, optimizer, lr=0.1)
    model = ScalarModel(spec, optimizer, matrices)
    assert model.train_step(0, [DOCUMENT], 0.1) == step.loss
    assert model.plain_weights() == step.weights_after
    assert model.evaluate([DOCUMENT]) == step.loss_after
    assert matrices == init_parameters(spec, random.Random(1))


@pytest.mark.parametrize("spec", SPECS, ids=shown)
def test_backpropagation_agrees_with_finite_differences(spec: ModelSpec) -> None:
    step = training_step(spec, init_parameters(spec, random.Random(2)), DOCUMENT, LETTERS, ADAM, lr=0.1)
    assert [one.name.partition("[")[0] for one in step.steps] == list(spec.shapes())
    for one in step.steps:
        assert one.gradient == pytest.approx(one.quotient, rel=1e-4, abs=1e-8)
        assert one.gradient == 0 or one.after != one.before


def test_every_number_of_the_forward_pass_is_a_node() -> None:
    spec = bigram(vocab_size=5, n_embd=5)
    step = training_step(spec, init_parameters(spec, random.Random(0)), DOCUMENT, LETTERS, ADAM, lr=0.1)
    positions = 4
    assert step.nodes == {
        "dot": positions,  # of the RMSNorm
        "*": positions * (1 + 5) + 1,  # the mean, the scaled features; the mean loss
        "+": positions,
        "**": positions,
        "linear": positions * 5,
        "cross_entropy": positions,
        "add_up": 1,
    }


def test_the_lesson_names_tokens_and_masked_targets_are_no_predictions() -> None:
    example = [LETTERS.bos, 0, ~1, 2, LETTERS.bos]
    step = training_step(gpt(), init_parameters(gpt(), random.Random(0)), example, LETTERS, ADAM, lr=0.1)
    assert [token.text for token in step.tokens] == ["BOS", "a", "b", "c", "BOS"]
    assert [(one.position, one.read.text, one.target.text) for one in step.predictions] == [
        (0, "BOS", "a"), (2, "b", "c"), (3, "c", "BOS"),
    ]  # fmt: skip
    text = plain_text(lesson(step))
    assert f"The loss of this document was {step.loss:.6f}" in text
    assert "layer0.attn_wq[" in text


@pytest.mark.parametrize("spec", SPECS, ids=shown)
def test_the_drawing_has_a_box_for_each_node_and_none_overlaps(spec: ModelSpec) -> None:
    graph = tiny_graph(spec, "abba", seed=0)
    drawing = ElementTree.fromstring(svg(graph))
    boxes = [one for one in drawing.iter("{http://www.w3.org/2000/svg}rect") if "box" in (one.get("class") or "")]
    assert len(boxes) == len(graph.nodes)
    corners = sorted((float(one.get("y", "")), float(one.get("x", ""))) for one in boxes)
    width, height = (float(boxes[0].get(side, "")) for side in ("width", "height"))
    for (y, x), (next_y, next_x) in pairwise(corners):
        assert next_x >= x + width if next_y == y else next_y >= y + height
    values = [
        float(one.text or "") for one in drawing.iter() if one.get("class") == "value" and one.tag.endswith("text")
    ]
    assert sorted(values) == pytest.approx(sorted(node.data for node in graph.nodes), rel=1e-2)


@settings(deadline=None, database=None, max_examples=30)
@given(st.data())
def test_nodes_are_below_their_children_and_rows_have_no_overlaps(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 20))
    children = [[], *(data.draw(st.lists(st.integers(0, node - 1), max_size=3)) for node in range(1, count))]
    found = layout(children, width=10, passing=2, gap=1)
    place_of: dict[int, Place] = {one.node: one for row in found.rows for one in row if one.node is not None}
    assert sorted(place_of) == list(range(count))
    for path in found.paths:
        assert [place.row for place in path] == list(range(path[0].row, path[0].row + len(path)))
    edges = {(path[0].node, path[-1].node) for path in found.paths}
    assert edges == {(child, node) for node, own in enumerate(children) for child in own}
    for row in found.rows:
        for left, right in pairwise(row):
            assert right.x - left.x >= (left.width + right.width) / 2 + 1 - 1e-9


def test_the_picture_of_the_guide_is_what_is_drawn_today() -> None:
    spec = ModelSpec("gpt", vocab_size=27, n_embd=16, n_head=4, n_layer=1, block_size=16)
    picture = ROOT / "docs" / "images" / "graph.svg"
    command = (
        "python -m microgpt task=explain explain.document=emma explain.format=svg explain.path=docs/images/graph.svg"
    )
    assert picture.read_text() == svg(tiny_graph(spec, "emma", seed=42)), f"run {command}"
