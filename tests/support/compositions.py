"""Configurations as Hydra composes them, without starting the program."""

from functools import cache

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from microgpt.app import config_directory
from microgpt.config.hydra_schema import from_values, register_schema
from microgpt.config.schema import Config


@cache
def composition(*overrides: str) -> DictConfig:
    """What Hydra composes from any overrides, once for each set of them: it takes a while."""
    GlobalHydra.instance().clear()
    register_schema()
    OmegaConf.register_new_resolver("sweep_id", lambda: "sweep", use_cache=True, replace=True)
    with initialize_config_dir(config_directory(), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def composed(*overrides: str) -> Config:
    """The configuration of a command. Hydra composes the options; values of keys are set on top, which is faster."""
    options = [override for override in overrides if "." not in override.split("=")[0]]
    keys = [override for override in overrides if override not in options]
    merged = OmegaConf.merge(composition(*options), OmegaConf.from_dotlist(keys))
    return from_values(OmegaConf.to_container(merged, resolve=True), {})
