"""task=benchmark: the structure of its document for every engine; the speeds themselves are not tested."""

import json
import math
from typing import Any

import pytest
from support.program import Program, mostly_slow

from microgpt.benchmarks import engines as bench_engines
from microgpt.benchmarks.engines import BATCHES, EngineBenchmark
from microgpt.benchmarks.micro import NAMES, Repeats, chain, language_rows, measure, row, seconds_of

QUICK = ("benchmark.repeats=2", "benchmark.seconds=0.0001", "benchmark.widths=[8]")
KEYS = ["name", "description", "iterations", "time_ms", "ops_per_sec"]  # of earlier implementations


def check_rows(rows: list[dict[str, Any]], names: tuple[str, ...]) -> None:
    assert [found["name"] for found in rows] == list(names)
    for found in rows:
        assert list(found)[: len(KEYS)] == KEYS
        assert found["ops_per_sec"] == pytest.approx(1e3 * found["iterations"] / found["time_ms"])
        assert 0 < found["min_ms"] <= found["time_ms"] <= found["max_ms"]


def check_figures(figures: list[dict[str, Any]], key: str) -> None:
    for found in figures:
        assert 0 < found["min"] <= found[key] <= found["max"] < math.inf
        assert found["repeats"] == 2


@pytest.mark.slow
def test_standard_output_is_the_document_with_every_engine(microgpt: Program) -> None:
    done = microgpt("task=benchmark", *QUICK)
    document = json.loads(done.stdout)
    assert list(document)[:3] == ["language", "version", "timestamp"]
    check_rows(document["benchmarks"], NAMES)
    assert [found["engine"] for found in document["engines"]] == ["python", "native", "torch"]
    for found in document["engines"]:
        assert found["available"]
        check_rows(found["benchmarks"], ("gpt_forward_10", "training_step_1"))
        check_figures(found["training"], "microseconds_per_name")
        check_figures(found["sampling"], "tokens_per_sec")
        assert [(one["n_embd"], one["batch_size"]) for one in found["training"]] == [(8, size) for size in BATCHES]
        ways = ["one text at a time"] + ["many texts at once"] * (found["engine"] == "native")
        assert [one["how"] for one in found["sampling"]] == ways
    assert document["benchmarks"][4:] == document["engines"][0]["benchmarks"]
    assert "native: training at n_embd 8, batch 16" in done.stderr
    assert not list(microgpt.folder.iterdir())


@pytest.mark.slow
def test_only_the_requested_engines_are_measured(microgpt: Program) -> None:
    document = json.loads(microgpt("task=benchmark", *QUICK, "benchmark.engines=[native]").stdout)
    assert [found["engine"] for found in document["engines"]] == ["native"]
    check_rows(document["benchmarks"], NAMES)


@mostly_slow(
    2,
    ("override", "sentence"),
    [
        ("benchmark.engines=[]", "give at least one engine"),
        ("benchmark.engines=[jax]", "benchmark.engines must be one of python, native, torch"),
        ("benchmark.engines=[native,native]", "list each engine only once"),
        ("benchmark.widths=[6]", "benchmark.widths=6 is not allowed"),
        ("benchmark.repeats=0", "benchmark.repeats must be at least 1"),
        ("benchmark.seconds=0", "benchmark.seconds must be finite and above 0"),
        ("model.n_embd=32", "model cannot be changed with task=benchmark: it uses microgpt.py's model"),
        ("checkpoint=latest", "task=benchmark does not use a checkpoint"),
    ],
)
def test_mistake_is_one_sentence(microgpt: Program, override: str, sentence: str) -> None:
    done = microgpt("task=benchmark", override, expect=2)
    assert sentence in done.stderr
    assert done.stdout == ""


def test_engine_that_is_not_installed_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_engines, "find_spec", lambda name: None)
    found = EngineBenchmark(Repeats(1, 1e-4), lambda text: None).report("torch", [8])
    assert found == {"engine": "torch", "available": False, "reason": "PyTorch is not installed"}


def test_language_rows_are_the_first_four_in_their_order() -> None:
    check_rows(language_rows(Repeats(1, 1e-4)), NAMES[:4])


@pytest.mark.parametrize("operations", [2, 1000])
def test_graph_of_values_has_the_stated_number_of_operations(operations: int) -> None:
    x = chain(operations)
    seen, left = set(), [x]
    while left:
        node = left.pop()
        if id(node) not in seen:
            seen.add(id(node))
            left.extend(node.children)
    assert len(seen) - 3 == operations  # three numbers are given


def test_gradient_of_that_graph_is_the_product_of_its_factors() -> None:
    x = chain(1000)
    x.backward()
    node = x
    while node.children:
        node = node.children[0]
    assert node.grad == pytest.approx(0.999**500)


def test_a_repeat_lasts_the_requested_time_and_the_warm_up_does_not_count() -> None:
    counts = []

    def run(count: int) -> tuple[float, int]:
        counts.append(count)
        return 0.01 * count, 2 * count

    assert measure(run, Repeats(3, 0.5)) == pytest.approx([0.005] * 3)
    assert counts[-3:] == [counts[-1]] * 3
    assert 0.01 * counts[-1] >= 0.5
    assert counts[0] == 1


def test_making_the_argument_of_a_call_is_not_timed() -> None:
    made = []
    seconds = seconds_of(lambda number: made.append(number), lambda: len(made), Repeats(2, 0.0))
    assert made == [0, 1, 2]
    assert len(seconds) == 2


def test_row_has_the_median_and_the_range() -> None:
    found = row("x", "y", 10, [0.003, 0.001, 0.002])
    assert (found["time_ms"], found["min_ms"], found["max_ms"], found["ops_per_sec"]) == pytest.approx((2, 1, 3, 5000))
