"""Two-level designs: sizes, resolution, and aliased effects."""

from itertools import combinations
from math import prod

import pytest

from microgpt.sweeps.two_level_designs import Design, choose


def resolution(design: Design) -> int:
    """Return the smallest number of factors, up to five, whose product is constant."""
    signs = [[1 - 2 * level for level in row] for row in design.rows]
    for size in range(1, 5):
        for chosen in combinations(range(len(design.columns)), size):
            if len({prod(row[one] for one in chosen) for row in signs}) == 1:
                return size
    return 5


# The largest numbers of factors of a regular fraction (Wu and Hamada, Experiments, 2009, appendix 5A)
@pytest.mark.parametrize(
    ("factors", "most", "runs", "expected"),
    [(5, 16, 16, 5), (8, 64, 64, 5), (8, 255, 64, 5), (11, 128, 128, 5), (8, 16, 16, 4),
     (16, 63, 32, 4), (13, 64, 64, 4)],
)  # fmt: skip
def test_a_fraction_has_the_resolution_that_it_states(factors: int, most: int, runs: int, expected: int) -> None:
    design = choose(factors, most, 4)
    assert design is not None
    assert (len(set(design.rows)), design.resolution) == (runs, expected)
    assert design.rows[0] == (0,) * factors
    assert resolution(design) == expected
    assert all(2 * sum(levels) == runs for levels in zip(*design.rows, strict=True))


def test_all_combinations_are_run_if_they_are_not_too_many() -> None:
    design = choose(3, 8, 5)
    assert design is not None
    assert (len(set(design.rows)), design.resolution, design.aliases()) == (8, None, [])


def test_there_is_no_design_with_too_few_runs() -> None:
    assert choose(9, 16, 4) is None
    assert choose(9, 16, 3) is not None
    assert choose(3, 0, 3) is None


def test_aliased_effects_have_the_same_contrast() -> None:
    design = choose(6, 16, 4)
    assert design is not None
    aliases = design.aliases()
    assert sum(len(group) for group in aliases) > 0
    for group in aliases:
        assert all(len(effect) == 2 for effect in group)  # resolution IV: no main effect is aliased
        assert len({tuple(sum(row[one] for one in effect) % 2 for row in design.rows) for effect in group}) == 1


def test_a_generated_factor_is_the_product_of_its_generator() -> None:
    design = choose(8, 64, 5)
    assert design is not None
    generators = [design.generator(factor) for factor in range(8)]
    assert sorted(map(len, generators))[:6] == [1] * 6
    for factor, base in enumerate(generators):
        assert all(row[factor] == sum(row[one] for one in base) % 2 for row in design.rows)


@pytest.mark.slow
def test_resolution_agrees_with_an_independent_library() -> None:
    doe = pytest.importorskip("pyDOE3")
    numpy = pytest.importorskip("numpy")
    design = choose(7, 64, 5)
    assert design is not None
    aliases, _ = doe.fracfact_aliasing(1 - 2.0 * numpy.array(design.rows))
    words = [alias.split(" = ") for alias in aliases if min(map(len, alias.split(" = "))) <= 2]
    assert len(words) == 7 + 21  # each main effect and two-factor interaction is alone among effects of its size
    assert all(sum(len(word) <= 2 for word in group) == 1 for group in words)
