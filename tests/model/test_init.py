"""Initial weights: their values, the order in which they are drawn, and what the variants of a model share."""

import random
from dataclasses import replace

import numpy as np
import pytest

from microgpt.data.corpus import build_corpus
from microgpt.data.sources import Source
from microgpt.model.init import init_parameters
from microgpt.model.spec import MODEL_KINDS, ModelSpec
from microgpt.training.from_config import initial_state

K2 = ModelSpec("gpt", vocab_size=27, n_embd=16, n_head=4, n_layer=1, block_size=16)
K1 = ModelSpec(
    "gpt", vocab_size=27, n_embd=16, n_head=4, n_layer=1, block_size=8,
    activation="relu_squared", init_std=0.02, residual_init="zero",
)  # fmt: skip
VARIANTS = [(tied, normed) for tied in (False, True) for normed in (False, True)]


def odd_spec(tied: bool = False, normed: bool = True, zero: bool = False) -> ModelSpec:
    """Return a spec whose tensors have an odd number of values, so that `gauss` keeps one for the next tensor."""
    return ModelSpec(
        "gpt", vocab_size=5, n_embd=3, n_head=1, n_layer=2, block_size=7,
        tie_lm_head=tied, input_rmsnorm=normed, init_std=0.5, residual_init="zero" if zero else "normal",
    )  # fmt: skip


def draws_of_odd_spec(seed: int) -> tuple[dict[str, list[list[float]]], random.Random]:
    """Return what microgpt.py draws with standard deviation 1/2 everywhere, and the generator afterwards."""
    rng = random.Random(seed)
    names = [("wte", 5, 3), ("wpe", 7, 3), ("lm_head", 5, 3)]
    for layer in ("layer0", "layer1"):
        names += [(f"{layer}.{name}", 3, 3) for name in ("attn_wq", "attn_wk", "attn_wv", "attn_wo")]
        names += [(f"{layer}.mlp_fc1", 12, 3), (f"{layer}.mlp_fc2", 3, 12)]
    return {
        name: [[rng.gauss(0, 0.5) for _ in range(columns)] for _ in range(rows)] for name, rows, columns in names
    }, rng


def test_tensors_are_drawn_row_by_row_in_the_reference_order() -> None:
    rng = random.Random(42)
    parameters = init_parameters(odd_spec(), rng)
    expected, rng_after = draws_of_odd_spec(42)
    assert list(parameters) == list(expected)
    assert parameters == expected
    assert rng.getstate() == rng_after.getstate()


def test_a_tied_lm_head_is_drawn_and_dropped() -> None:
    rng = random.Random(42)
    parameters = init_parameters(odd_spec(tied=True), rng)
    expected, rng_after = draws_of_odd_spec(42)
    del expected["lm_head"]
    assert parameters == expected
    assert rng.getstate() == rng_after.getstate()


def test_a_tensor_that_starts_at_zero_is_drawn_too() -> None:
    rng = random.Random(42)
    parameters = init_parameters(odd_spec(zero=True), rng)
    expected, rng_after = draws_of_odd_spec(42)
    for name, matrix in parameters.items():
        if name.endswith(("attn_wo", "mlp_fc2")):
            assert not np.any(matrix), name
        else:
            assert matrix == expected[name], name
    assert rng.getstate() == rng_after.getstate()


def test_a_bigram_draws_its_table_and_then_its_output_matrix() -> None:
    spec = ModelSpec("bigram", vocab_size=5, n_embd=5, n_head=1, n_layer=0, block_size=4)
    rng = random.Random(7)
    expected = {name: [[rng.gauss(0, 0.08) for _ in range(5)] for _ in range(5)] for name in ("wte", "lm_head")}
    assert init_parameters(spec, random.Random(7)) == expected


@pytest.mark.parametrize("seed", [0, 42])
def test_the_ablation_variants_of_a_seed_have_equal_values_in_common_tensors(seed: int) -> None:
    plain = init_parameters(odd_spec(False, False), random.Random(seed))
    for tied, normed in VARIANTS:
        variant = init_parameters(odd_spec(tied, normed), random.Random(seed))
        assert set(plain) - set(variant) == ({"lm_head"} if tied else set())
        assert variant == {name: plain[name] for name in variant}


ALL_OPTIONS = replace(
    odd_spec(tied=True), position="rope", norm="layernorm", norm_gain=True, final_norm=True, bias=True, gated_mlp=True,
    init_std=0.02,
)  # fmt: skip


def test_options_change_no_value_of_the_tensors_that_microgpt_has() -> None:
    """Up to the standard deviation, and except the matrices of another shape, which are drawn last."""
    plain = init_parameters(odd_spec(), random.Random(3))
    found = init_parameters(ALL_OPTIONS, random.Random(3))
    assert list(found) == list(ALL_OPTIONS.shapes())
    for name in plain.keys() & found.keys():
        np.testing.assert_allclose(np.array(found[name]) * 25, plain[name], rtol=1e-14, err_msg=name)
    assert plain.keys() - found.keys() == {"wpe", "lm_head"}
    reference = init_parameters(replace(odd_spec(), n_head=3), random.Random(3))
    fewer = init_parameters(replace(odd_spec(), n_head=3, n_kv_head=1, mlp_width=4), random.Random(3))
    changed = {name for name in fewer if np.shape(fewer[name]) != np.shape(reference[name])}
    assert changed == {f"layer{i}.{name}" for i in (0, 1) for name in ("attn_wk", "attn_wv", "mlp_fc1", "mlp_fc2")}
    assert all(fewer[name] == reference[name] for name in fewer.keys() - changed)


def test_gains_start_at_one_and_biases_at_zero() -> None:
    found = init_parameters(ALL_OPTIONS, random.Random(3))
    for name, matrix in found.items():
        if name.endswith(("_gain", "_bias")):
            assert set(matrix[0]) == {1.0 if name.endswith("_gain") else 0.0}, name
    assert np.shape(found["layer1.mlp_gate_bias"]) == (1, 12)


def test_the_standard_deviations_of_initial_matrices() -> None:
    spec = ModelSpec(
        "gpt", vocab_size=27, n_embd=64, n_head=1, n_layer=2, block_size=16, init="fan_in", residual_init="scaled",
        gated_mlp=True,
    )  # fmt: skip
    found = {name: float(np.std(matrix)) for name, matrix in init_parameters(spec, random.Random(1)).items()}
    for name, std in {
        "wte": 0.08, "wpe": 0.08, "lm_head": 1 / 8, "layer1.attn_wq": 1 / 8, "layer1.mlp_fc1": 1 / 8,
        "layer1.mlp_gate": 1 / 8, "layer1.attn_wo": 1 / 8 / 2, "layer1.mlp_fc2": 1 / 16 / 2,
    }.items():  # fmt: skip
        assert found[name] == pytest.approx(std, rel=0.07), name


def test_different_seeds_draw_different_values() -> None:
    first, second = (init_parameters(odd_spec(), random.Random(seed)) for seed in (42, 43))
    assert all(first[name] != second[name] for name in first)


def test_k2_has_4192_parameters_and_k1_4064() -> None:
    for spec, count in ((K2, 4192), (K1, 4064)):
        assert spec.parameter_count() == count
        assert sum(np.size(matrix) for matrix in init_parameters(spec, random.Random(42)).values()) == count


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_tying_saves_exactly_the_output_matrix(kind: str) -> None:
    width, layers = (16, 1) if "n_embd" in MODEL_KINDS[kind].sizes else (27, 0)
    untied, tied = (
        ModelSpec(kind, vocab_size=27, n_embd=width, n_head=1, n_layer=layers, block_size=16, tie_lm_head=tied)
        for tied in (False, True)
    )
    assert untied.parameter_count() - tied.parameter_count() == 27 * width


def test_initial_state_shuffles_the_documents_and_then_draws_from_the_same_generator() -> None:
    names = ["ab", "ba", "ca", "db", "dada", "cab"]  # five tokens with BOS
    corpus = build_corpus(
        Source("text", "a test", "", "\n".join(names)),
        text_format="lines", long_documents="truncate", val_fraction=0, split_seed=0, block_size=7,
    )  # fmt: skip
    initial = initial_state(42, corpus, odd_spec(), batch_size=2, style_share=0.0)

    rng = random.Random(42)
    documents = list(names)
    rng.shuffle(documents)
    wte = [[rng.gauss(0, 0.5) for _ in range(3)] for _ in range(5)]

    met = [corpus.train.examples[i] for step in range(3) for i in initial.order.batch(step)]
    assert [corpus.tokenizer.decode(example) for example in met] == documents
    assert initial.engine_state.parameters["wte"].tolist() == [wte]
