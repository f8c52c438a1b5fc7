"""Jobs of a sweep are composed quickly, with the results of Hydra's own composition."""

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from microgpt.app import config_directory
from microgpt.config.hydra_schema import from_values, register_schema
from microgpt.config.schema import Config
from microgpt.sweeps.composition import Composer


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    register_schema()
    OmegaConf.register_new_resolver("sweep_id", lambda: "x", replace=True)
    with initialize_config_dir(config_directory(), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        from hydra.types import RunMode

        master = loader.load_configuration("config", [], RunMode.MULTIRUN)
        yield Composer(loader, master)


def as_hydra_does(composer: Composer, overrides: list[str]) -> Config:
    composed = composer.loader.load_sweep_config(composer.master, overrides)
    choices = dict(composed.hydra.runtime.choices)
    OmegaConf.set_struct(composed, False)
    del composed["hydra"]
    return from_values(OmegaConf.to_container(composed, resolve=True), choices)


def quickly(composer: Composer, overrides: list[str]) -> Config:
    composed = composer.compose(overrides)
    return from_values(composed.values, composed.choices)


VALUES = {
    "seed": ["0", "7"],
    "model.tie_lm_head": ["true", "false"],
    "optim.lr": ["0.1", "1e-3", "1"],
    "train.steps": ["5", "50"],
    "train.eval_every": ["null", "3", "${train.steps}"],
    "train.resume": ["never", "auto"],
    "sample.prompt": ["ab", "'a b'", "''"],
    "style.phrases": ["[a,b]", "[]"],
    "data.val_fraction": ["0", "0.5"],
    "backend.threads": ["null", "2"],
    "model": ["gpt", "bigram", "gpt_first"],
    "style": ["classic", "futuristic"],
    "mode": ["scalar", "tensor"],
    "experiment": ["debug", "karpathy"],
    "hydra.verbose": ["false"],
}
OVERRIDES = st.dictionaries(st.sampled_from(list(VALUES)), st.integers(0, 10), max_size=6)


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(OVERRIDES, min_size=1, max_size=3))
def test_a_quick_composition_equals_hydra_s(composer: Composer, chosen: list[dict[str, int]]) -> None:
    """Compose several jobs in a row: the values of one job must not appear in the next."""
    for each in chosen:
        overrides = [f"{key}={VALUES[key][number % len(VALUES[key])]}" for key, number in each.items()]
        assert quickly(composer, overrides) == as_hydra_does(composer, overrides)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "copied"),
    [
        (["seed=7"], True),
        (["seed=0", "seed=10"], True),
        (["seed=8", "optim.lr=0.5", "sample.prompt=ab"], True),
        (["seed=8", "optim.lr=1", "sample.prompt=ab"], False),  # becomes 1.0
        (["seed=8", "optim.lr=0.5", "sample.prompt='a b'"], False),  # in quotes
        (["seed=8", "optim.lr=0.5", "sample.prompt=${style.name}"], False),
        (["seed=8", "optim.lr=0.5", "sample.prompt=1e3"], False),  # spelled like a number
    ],
    ids=str,
)
def test_a_job_is_a_copy_of_another_only_if_that_gives_hydra_s_values(
    composer: Composer, values: list[str], copied: bool
) -> None:
    first = [f"{value.split('=')[0]}={other}" for value, other in zip(values, ("3", "0.25", "x"), strict=False)]
    if len(values) == 2:
        first[1] = "seed=4"
    composer.compose(first)
    assert quickly(composer, values) == as_hydra_does(composer, values)
    assert (composer.compose(values).config is None) == copied
    assert quickly(composer, first) == as_hydra_does(composer, first), "the values of one are not in the next"


@pytest.mark.parametrize("override", ["seed=abc", "train.step=3", "model=lstm", "optim.lr=[1]", "model.n_embd={a:1}"])
def test_an_invalid_override_raises_hydra_s_error(composer: Composer, override: str) -> None:
    with pytest.raises(HydraException) as theirs:
        as_hydra_does(composer, [override])
    with pytest.raises(HydraException) as ours:
        quickly(composer, [override])
    assert (type(ours.value), str(ours.value)) == (type(theirs.value), str(theirs.value))


def test_what_jobs_share_is_composed_once(composer: Composer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    load = composer.loader.load_sweep_config

    def counting(master: DictConfig, overrides: list[str]) -> DictConfig:
        calls.append(overrides)
        return load(master, overrides)

    monkeypatch.setattr(composer.loader, "load_sweep_config", counting)
    composer.base.cache_clear()
    for seed in range(20):
        for model in ("gpt", "bigram"):
            assert quickly(composer, [f"model={model}", f"seed={seed}", "mode=tensor"]).seed == seed
    assert calls == [["model=gpt", "mode=tensor"], ["model=bigram", "mode=tensor"]]


def test_a_job_s_overrides_leave_out_hydra_s_keys(composer: Composer) -> None:
    overrides = ["seed=3", "hydra.verbose=false", "model=gpt", "hydra/launcher=basic"]
    assert composer.compose(overrides).overrides == ("seed=3", "model=gpt")
