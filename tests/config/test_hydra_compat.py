"""The uses of Hydra beyond its documented interface still work with the installed versions."""

import argparse
import ast
import contextlib
import copy
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import OmegaConf
from support.program import ROOT

from microgpt.app import config_directory, execute
from microgpt.config import hydra_compat
from microgpt.config.hydra_schema import register_schema
from microgpt.sweeps.lifecycle import new_sweep
from microgpt.sweeps.plugins import PLUGINS

PRIVATE = ("hydra._internal", "_apply_overrides_to_config", "_get_node", "_metadata", "_resolvers")


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    register_schema()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.mark.parametrize(("package", "version"), hydra_compat.CHECKED_WITH.items())
def test_installed_version_is_the_one_checked_with(package: str, version: str) -> None:
    if "rc" in metadata.version(package):
        pytest.skip(f"{metadata.version(package)} is a release candidate: the other tests try the uses")
    assert metadata.version(package) == version, "check the uses in config/hydra_compat.py, then change CHECKED_WITH"


def test_private_names_of_hydra_and_omegaconf_are_used_in_one_module_only() -> None:
    found = set()
    for file in (ROOT / "microgpt").rglob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
        if names & set(PRIVATE) or "hydra._internal" in file.read_text() or "__deepcopy__" in names:
            found.add(file.relative_to(ROOT / "microgpt").as_posix())
    assert found == {"config/hydra_compat.py"}


def test_config_store_that_hydra_copies_is_shared(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    store, copies = ConfigStore.instance(), []
    monkeypatch.setattr(ConfigStore, "__deepcopy__", lambda self, memo: copies.append(self) or self, raising=False)
    loader.load_configuration("config", ["seed=1"], RunMode.RUN)
    assert copies or not hydra_compat.HAS_VERSION_BASE, (
        "Hydra no longer copies its ConfigStore: share_config_store has become superfluous"
    )
    hydra_compat.share_config_store()
    assert copy.deepcopy(store) is store


def test_overrides_are_applied_as_hydra_applies_them(loader: ConfigLoader) -> None:
    config = OmegaConf.create({"a": {"b": 1}})
    OmegaConf.set_struct(config, True)
    parser = OverridesParser.create()
    hydra_compat.apply_overrides(parser.parse_overrides(["a.b=2"]), config)
    assert config.a.b == 2
    with pytest.raises(HydraException, match=r"Could not override 'a\.c'"):
        hydra_compat.apply_overrides(parser.parse_overrides(["a.c=2"]), config)


def test_groups_are_told_from_keys(loader: ConfigLoader) -> None:
    assert [hydra_compat.is_group(loader, key) for key in ("model", "hydra/launcher", "seed", "train")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_plugins_are_registered_under_the_names_in_conf() -> None:
    hydra_compat.register_plugins("microgpt.sweeps.plugins")
    plugins = Plugins.instance()
    found = {
        f"{plugin.__module__}.{plugin.__name__}" for kind in (Launcher, Sweeper) for plugin in plugins.discover(kind)
    }
    used = {
        OmegaConf.load(file)._target_
        for file in (ROOT / "conf/hydra").glob("*/*.yaml")
        if "_target_" in file.read_text()
    }
    assert used == {f"hydra_plugins.microgpt.{plugin.__name__}" for plugin in PLUGINS}
    assert used <= found


def test_a_grid_has_a_job_for_each_combination() -> None:
    overrides = OverridesParser.create().parse_overrides(["a=1,2", "b=range(3)", "c=x"])
    jobs = hydra_compat.combinations(overrides)
    assert jobs[:2] == [["a=1", "b=0", "c=x"], ["a=1", "b=1", "c=x"]]
    assert len(jobs) == 6


def test_files_are_checked_as_hydra_loads_them(loader: ConfigLoader) -> None:
    seen = {}
    hydra_compat.check_files(lambda content, file: seen.setdefault(file, content))
    try:
        loader.load_configuration("config", ["style=classic"], RunMode.RUN)
    finally:
        register_schema()
    assert seen["style/classic"] == {"style": {"name": "classic"}}


def test_a_single_run_is_composed_once_as_hydra_composes_it_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    composed: list[RunMode] = []
    compose = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, name: str, overrides: list[str], mode: RunMode, *others: bool) -> object:
        composed.append(mode)
        return compose(self, name, overrides, mode, *others)

    def saved(folder: str) -> dict[str, str]:
        composed.clear()
        with new_sweep():
            execute(["experiment=debug", "train.steps=0", "sample.num_samples=0", f"hydra.run.dir={folder}"])
        return {file.name: file.read_text().replace(folder, "") for file in (tmp_path / folder / ".hydra").iterdir()}

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    once = saved("once")
    if hydra_compat.HAS_VERSION_BASE:  # Hydra 1.4 composes it only once
        assert composed == [RunMode.MULTIRUN]
        assert "- hydra.mode=RUN" in once["hydra.yaml"]
    monkeypatch.setattr(hydra_compat, "composed_once", lambda args: contextlib.nullcontext())
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", compose)
    twice = saved("twice")
    assert once == twice
    assert "mode: RUN" in once["hydra.yaml"]


def test_the_parser_is_made_with_the_check_of_python_3_14(monkeypatch: pytest.MonkeyPatch) -> None:
    """That version refuses an argument whose help is not a text."""

    def check(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
        if not isinstance(action.help, str | None):
            raise ValueError("badly formed help string")

    def add(parser: argparse.ArgumentParser, *names: Any, **options: Any) -> argparse.Action:
        action = before(parser, *names, **options)
        parser._check_help(action)  # pyright: ignore[reportAttributeAccessIssue]
        return action

    before = argparse.ArgumentParser.add_argument
    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", check, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add)
    with pytest.raises(ValueError, match="badly formed"):
        hydra_compat.get_args_parser()
    arguments, _ = hydra_compat.parse_arguments(["--cfg", "job", "seed=1"])
    assert (arguments.cfg, arguments.overrides) == ("job", ["seed=1"])
