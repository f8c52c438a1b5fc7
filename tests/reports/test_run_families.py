"""Families: which runs form variants, which variants are comparable, which comparisons are made."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.report_rows import Sweep, only_family

from microgpt.reports.paired_statistics import Verdict
from microgpt.reports.rows import Row
from microgpt.reports.run_families import ONLY, Family, families
from microgpt.reports.settings import differing_keys, label
from microgpt.reports.variant_comparisons import MOST_PAIRED, comparisons

TOGGLES = [(True, False), (True, True), (False, False), (False, True)]


def ablations(rows: list[Row]) -> list[Family]:
    return [family for family in families(rows) if family.kind == "ablation"]


def names(family: Family) -> list[str]:
    return [variant.name for variant in family.variants]


def add_ablation(sweep: Sweep, seeds: int = 3, **keys) -> None:
    for seed in range(seeds):
        for tied, normed in TOGGLES:
            loss = 2.2 + 0.1 * tied - 0.02 * normed + 0.01 * seed + 0.001 * (seed * tied + seed**2 * normed)
            sweep.add(seed, loss, model__tie_lm_head=tied, model__input_rmsnorm=normed, **keys)


# Variants


def test_a_variant_is_named_by_the_keys_that_differ(sweep):
    for lr in (0.01, 0.005):
        for tied in (True, False):
            sweep.add(optim__lr=lr, model__tie_lm_head=tied)
    family = only_family(sweep)
    assert (family.kind, family.key) == ("sweep", "sweeps/sweep_01234567")
    assert names(family) == [
        "tie_lm_head=true optim.lr=0.01", "tie_lm_head=false optim.lr=0.01",
        "tie_lm_head=true optim.lr=0.005", "tie_lm_head=false optim.lr=0.005",
    ]  # fmt: skip
    assert family.variants[0].settings == {"model.tie_lm_head": True, "optim.lr": 0.01}


def test_seeds_do_not_make_variants(sweep):
    for seed in (5, 3, 4):
        sweep.add(seed)
    (variant,) = only_family(sweep).variants
    assert (variant.name, list(variant.rows)) == (ONLY, [3, 4, 5])


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("train__log_every", (1, 10)),
        ("train__eval_every", (None, 10)),
        ("train__checkpoint_every", (None, 10)),
        ("train__resume", ("auto", "never")),
        ("sample__temperature", (0.5, 1.0)),
        ("backend__threads", (1, 8)),
        ("sweep__fresh", (True, False)),
        ("serve__port", (8080, 8081)),
        ("serve__api_key", (None, "secret")),
        ("logger__name", ("none", "tensorboard")),
        ("export__half", (False, True)),
        ("outputs_dir", ("outputs", "elsewhere")),
    ],
)
def test_settings_without_effect_on_training_make_no_variant(sweep, key, values):
    for seed, value in enumerate(values):
        sweep.add(seed, **{key: value})
    assert names(only_family(sweep)) == [ONLY]


def test_threads_of_torch_make_a_variant(sweep):
    for seed, threads in enumerate((1, 8)):
        sweep.change(sweep.add(seed, backend__name="torch", backend__threads=threads), backend="torch")
    assert names(only_family(sweep)) == ["backend.threads=1", "backend.threads=8"]


def test_keys_that_follow_from_an_option_s_name_are_left_out(sweep):
    sweep.add(optim__name="adam", optim__beta1=0.85, optim__eps=1e-8)
    sweep.add(optim__name="sgd", optim__momentum=0.9)
    assert names(only_family(sweep)) == ["optim=adam", "optim=sgd"]


def test_a_key_that_does_not_follow_from_an_option_s_name_is_shown(sweep):
    sweep.add(optim__name="adam", optim__lr=0.01)
    sweep.add(optim__name="adam", optim__lr=0.02)
    sweep.add(optim__name="sgd", optim__lr=0.02)
    assert names(only_family(sweep)) == [
        "optim=adam optim.lr=0.01", "optim=adam optim.lr=0.02", "optim=sgd optim.lr=0.02",
    ]  # fmt: skip


@given(st.lists(st.fixed_dictionaries({
    "optim.name": st.sampled_from(["adam", "sgd"]), "optim.lr": st.sampled_from([0.01, 0.02]),
    "optim.beta1": st.sampled_from([None, 0.9]), "data.path": st.sampled_from(["a", "b"]),
    "data.sha256": st.sampled_from(["x", "y"]), "style.documents": st.lists(st.text(), max_size=20),
}), min_size=1, max_size=8))  # fmt: skip
def test_different_settings_have_different_labels_and_equal_ones_the_same(variants):
    keys = differing_keys(variants)

    def chosen(settings):
        return label({key: settings[key] for key in keys})

    for one in variants:
        for other in variants:
            assert (chosen(one) == chosen(other)) == (one == other)


def test_a_long_value_is_abbreviated_in_a_label_but_still_unique():
    documents = [["a sentence of some length"] * 9 + [end] for end in "ab"]
    labels = [label({"style.documents": texts}) for texts in documents]
    assert labels[0] != labels[1]
    assert all(len(text) < 50 for text in labels)


def test_the_newest_completed_run_of_a_seed_counts(sweep):
    sweep.add(1, 3.0, job="7")
    sweep.add(1, 2.0, job="1")
    sweep.add(1, None, status="failed", job="0")
    sweep.add(2, 2.5, job="2")
    (variant,) = only_family(sweep).variants
    assert variant.values("val_loss") == {1: 2.0, 2: 2.5}
    assert (variant.failed, variant.unfinished) == (0, 0)


def test_variants_are_in_the_order_of_the_sweep_s_jobs(sweep):
    for job, lr in ((10, 0.3), (2, 0.1), (9, 0.2)):
        sweep.add(optim__lr=lr, job=str(job))
    assert names(only_family(sweep)) == ["optim.lr=0.1", "optim.lr=0.2", "optim.lr=0.3"]


def test_failed_and_unfinished_runs_are_counted(sweep):
    for seed in range(3):
        sweep.add(seed, 2.0 + seed / 10)
        sweep.add(seed, None, status="failed", optim__lr=1000.0)
    sweep.add(3, None, status="interrupted")
    sweep.add(4, None, status="running")
    good, bad = only_family(sweep).variants
    assert (len(good.rows), good.failed, good.unfinished) == (3, 0, 2)
    assert (len(bad.rows), bad.failed, bad.unfinished) == (0, 3, 0)
    assert (bad.parameters, only_family(sweep).baseline) == (None, good)


def test_a_run_that_failed_before_it_read_its_data_is_counted_with_its_variant(sweep):
    sweep.add(1)
    sweep.add(2)
    sweep.change(sweep.add(3, None, status="failed"), data_sha256=None)
    (variant,) = only_family(sweep).variants
    assert (len(variant.rows), variant.failed) == (2, 1)


@pytest.mark.parametrize("loss", [float("inf"), 10**400], ids=["infinite", "too large for a float"])
def test_a_loss_that_is_not_finite_counts_as_a_failure(sweep, loss):
    sweep.add(1, 2.0)
    sweep.change(sweep.add(2), val_loss=loss)
    (variant,) = only_family(sweep).variants
    assert (variant.values("val_loss"), variant.failed) == ({1: 2.0}, 1)


# Families


def test_single_runs_are_not_a_family(sweep):
    row = sweep.add(1)
    assert families(sweep.rows) == []
    others = [replace(row, run_id="2026-01-01/10-00-00_01234567", seed=seed) for seed in (1, 2)]
    assert families(others) == []


def test_runs_of_other_sweeps_are_not_mixed(tmp_path):
    first, second = Sweep(tmp_path, "a_00000000"), Sweep(tmp_path, "b_00000000")
    for seed in (1, 2):
        first.add(seed)
        second.add(seed, train__steps=50)
    found = families(second.rows + first.rows)
    assert [family.key for family in found] == ["sweeps/b_00000000", "sweeps/a_00000000"]


def test_a_sweep_that_is_an_ablation_is_one_family_with_the_fixed_names(sweep):
    add_ablation(sweep)
    family = only_family(sweep)
    assert family.kind == "ablation"
    assert names(family) == [
        "tied_no_input_rmsnorm", "tied_input_rmsnorm", "untied_no_input_rmsnorm", "untied_input_rmsnorm",
    ]  # fmt: skip
    assert family.variants[0].settings == {"model.tie_lm_head": True, "model.input_rmsnorm": False}
    assert [found.key for found in ablations(sweep.rows)] == [family.key]


def test_a_sweep_over_more_than_the_toggles_is_a_family_beside_its_ablations(sweep):
    add_ablation(sweep, optim__lr=0.01)
    add_ablation(sweep, optim__lr=0.02)
    found = families(sweep.rows)
    assert sorted(family.kind for family in found) == ["ablation", "ablation", "sweep"]
    assert {len(family.variants) for family in found} == {4, 8}


def test_the_ablations_of_a_screening_are_left_to_the_effects_of_its_factors(sweep):
    for lr in (0.01, 0.02, 0.03, 0.04):
        add_ablation(sweep, optim__lr=lr)
    assert sorted(family.kind for family in families(sweep.rows)) == [*["ablation"] * 4, "sweep"]
    add_ablation(sweep, optim__lr=0.05)
    assert [family.kind for family in families(sweep.rows)] == ["sweep"]


def test_without_one_of_its_variants_an_ablation_is_a_sweep(sweep):
    add_ablation(sweep)
    for row in list(sweep.rows):
        if row.variant == "tied_input_rmsnorm":
            sweep.change(row, status="failed")
    assert ablations(sweep.rows) == []
    family = only_family(sweep)
    assert family.kind == "sweep"
    assert {variant.name: variant.failed for variant in family.variants}["tied_input_rmsnorm"] == 3


# The baseline


def test_the_baseline_has_the_schema_s_defaults(sweep):
    add_ablation(sweep)
    assert only_family(sweep).baseline.name == "untied_input_rmsnorm"


def test_without_known_defaults_the_first_job_is_the_baseline(sweep):
    for n_embd in (64, 16, 32):
        sweep.add(model__n_embd=n_embd)
    assert only_family(sweep).baseline.name == "model.n_embd=64"


def test_a_variant_without_a_completed_run_is_not_the_baseline(sweep):
    sweep.add(1, None, status="failed", optim__lr=0.01)  # the default
    sweep.add(1, optim__lr=0.5)
    sweep.add(1, optim__lr=0.02)
    assert only_family(sweep).baseline.name == "optim.lr=0.5"


# Comparability


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"data__split_seed": 1}, "data.split_seed is 0 or 1"),
        ({"data__val_fraction": 0.2}, "data.val_fraction is 0.1 or 0.2"),
        ({"data": {"sha256": "e" * 64}}, "the data's SHA-256 is dddddddd... or eeeeeeee..."),
        ({"style__name": "foreign", "vocab_size": 31}, "vocab_size is 27 or 31"),
        ({"train__eval_documents": 50, "data": {"evaluated_documents": 50}}, "evaluated documents is 100 or 50"),
        ({"model__block_size": 8, "data": {"long_documents": {"count": 3}}}, "model.block_size is 16 or 8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_variants_validated_on_different_documents_are_not_compared(sweep, keys, told):
    for seed in range(3):
        sweep.add(seed, 2.0 + seed / 10)
        sweep.add(seed, 2.1 + seed / 9, **keys)
        sweep.add(seed, 2.2 + seed / 8, optim__lr=0.5)
    family = only_family(sweep)
    assert family.obstacle is not None
    assert told in family.obstacle
    assert "val_loss can be compared only between variants that were validated on the same documents" in family.obstacle
    (comparison,) = comparisons(family)
    assert (comparison.a.name, comparison.b.name) == (family.variants[2].name, family.variants[0].name)


@pytest.mark.parametrize(
    "keys",
    [
        {"train__eval_documents": 500},  # there are 100
        {"model__block_size": 8},  # no document is that long
        {"train__steps": 50},
        {"style__bias": 2.0},
    ],
    ids=str,
)
def test_variants_with_the_same_validation_are_compared(sweep, keys):
    for seed in range(3):
        sweep.add(seed, 2.0 + seed / 10)
        sweep.add(seed, 2.1 + seed / 9, **keys)
    family = only_family(sweep)
    assert family.obstacle is None
    assert len(comparisons(family)) == 1


def test_training_losses_are_compared_only_on_the_same_documents(sweep):
    sweep.add(1, None)
    sweep.add(1, None, style__share=0.5)
    family = only_family(sweep)
    assert family.metric == "mean_loss_last_n"
    assert family.obstacle is not None
    assert "style.share is 0.0 or 0.5" in family.obstacle
    assert comparisons(family) == []


# Comparisons


def test_all_pairs_of_few_variants_are_compared_those_of_the_baseline_first(sweep):
    add_ablation(sweep)
    pairs = [(one.a.name, one.b.name) for one in comparisons(only_family(sweep))]
    assert len(pairs) == 6
    assert [b for _, b in pairs[:3]] == ["untied_input_rmsnorm"] * 3
    assert "untied_input_rmsnorm" not in {name for pair in pairs[3:] for name in pair}


def test_many_variants_are_compared_only_with_the_baseline(sweep):
    rates = [0.01 * number for number in range(1, MOST_PAIRED + 2)]
    for lr in rates:
        for seed in range(2):
            sweep.add(seed, 2.0 + lr + seed * lr, optim__lr=lr)
    found = comparisons(only_family(sweep))
    assert [one.b.name for one in found] == ["optim.lr=0.01"] * MOST_PAIRED


def test_the_p_values_of_a_family_are_corrected_together(sweep):
    add_ablation(sweep, seeds=5)
    found = [one.difference for one in comparisons(only_family(sweep))]
    ps = sorted(one.p for one in found if one.p is not None)
    assert min(one.p_adjusted for one in found if one.p_adjusted is not None) == pytest.approx(len(ps) * ps[0])


def test_a_failed_seed_is_left_out_of_the_pairs_and_counted(sweep):
    add_ablation(sweep, seeds=5)
    failed = next(row for row in sweep.rows if row.variant == "tied_input_rmsnorm" and row.seed == 2)
    sweep.change(failed, status="failed")
    family = only_family(sweep)
    with_gap = [one for one in comparisons(family) if "tied_input_rmsnorm" in (one.a.name, one.b.name)]
    assert {(one.difference.n, one.difference.left_out) for one in with_gap} == {(4, 1)}
    assert all("1 seed without a partner left out" in one.difference.sentence for one in with_gap)


def test_one_seed_is_not_tested(sweep):
    add_ablation(sweep, seeds=1)
    found = comparisons(only_family(sweep))
    assert {one.difference.verdict for one in found} == {Verdict.UNTESTED}


def test_settings_leave_out_the_seed_and_keep_the_data(sweep):
    found = sweep.add(3).settings
    assert "seed" not in found
    assert found["data.sha256"] == "d" * 64
    assert found["model.n_embd"] == 16
