"""All uses of Hydra beyond its documented interface. Of OmegaConf, only the public interface is used.

Checked with the versions below; tests/config/test_hydra_compat.py fails if one of these uses stops working.
"""

import argparse
import contextlib
import importlib
import logging
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import omegaconf
from hydra import version
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.utils import get_args_parser
from hydra.core import utils
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser import overrides_parser
from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobRuntime
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from microgpt.errors import UserError

HYDRA_S_OWN = ("hydra", "_")  # prefixes of the names of Hydra's own entries in the ConfigStore
CHECKED_WITH = {"hydra-core": "1.3.8", "omegaconf": "2.3.1"}
# Also tested with Hydra 1.4.0rc3 and OmegaConf 2.4.1rc1, where the version base is deprecated, override_dirname is a
# resolver, --experimental-rerun takes a run's folder, and OmegaConf has renamed a function.
HAS_VERSION_BASE = not hasattr(utils, "hydra_override_dirname")
OVERRIDE_DIRNAME = "${hydra_override_dirname:}"
OWN_FOLDER = "${outputs_dir}/${now:%Y-%m-%d}/${run_name:}"  # the default of hydra.run.dir in conf/config.yaml


def register_resolver(name: str, resolver: Callable[..., Any], *, use_cache: bool = False) -> None:
    """Register a resolver with OmegaConf, replacing any resolver of the same name."""
    is_2_3 = omegaconf.__version__.startswith("2.3.")
    register = OmegaConf.register_new_resolver if is_2_3 else OmegaConf.register_resolver
    register(name, resolver, use_cache=use_cache, replace=True)  # pyright: ignore[reportCallIssue]


def share_config_store() -> None:
    """Let Hydra use its ConfigStore directly instead of deep copies. No code changes the copies.

    Hydra copies the store for each option that --help lists, which would take half the run time of --help.
    """
    ConfigStore.__deepcopy__ = lambda self, memo: self  # pyright: ignore[reportAttributeAccessIssue]


def apply_overrides(overrides: Sequence[Override], config: DictConfig) -> None:
    """Set values in a composed configuration, as Hydra's last composition step does. Raises Hydra's errors."""
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def override_dirname(config: DictConfig) -> Callable[[list[Override]], str]:
    """Return the function that maps the overrides of a job to its hydra.job.override_dirname."""
    if not HAS_VERSION_BASE:
        return lambda overrides: OVERRIDE_DIRNAME
    style: Any = OmegaConf.to_container(config.hydra.job.config.override_dirname)
    return lambda overrides: config_loader_impl.get_overrides_dirname(overrides=overrides, **style)


def is_group(loader: ConfigLoader, key: str) -> bool:
    """Return whether `key` is a config group in the search path."""
    assert isinstance(loader, ConfigLoaderImpl)
    return loader.repository.group_exists(key)


def override_in(error: BaseException) -> str | None:
    """Return the override that Hydra was reading when it raised an error, if its message does not contain it."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        override = frame.f_locals.get("override")
        if isinstance(override, Override):
            return override.input_line
    return None


def is_plugin(target: Any) -> bool:
    """Return whether `target` is the name of an installed plugin's class."""
    return target in Plugins.instance().class_name_to_class


def register_plugins(module: str) -> None:
    """Register the PLUGINS of a microgpt module as hydra_plugins.microgpt.<name>, the names used in conf/hydra/.

    Hydra accepts only plugins from the package `hydra_plugins`. They are added to this package when the program starts
    instead of at installation, so that a checkout works without being installed.
    """
    plugins = Plugins.instance()  # must come before the import: it executes Hydra's own plugin modules again
    ours = importlib.import_module(module)
    try:
        package = importlib.import_module("hydra_plugins")  # exists if any plugin is installed
    except ImportError:
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        package.__path__ = []
    sys.modules["hydra_plugins.microgpt"] = package.microgpt = ours  # pyright: ignore[reportAttributeAccessIssue]
    for plugin in ours.PLUGINS:
        plugin.__module__ = "hydra_plugins.microgpt"
        plugins.register(plugin)


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of each job of a grid. Raises Hydra's errors."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    (jobs,) = BasicSweeper.split_arguments(list(overrides), None)
    return jobs


# Text values as written


class Spelled(str):
    """The spelling of a value that the override grammar parses as a number, a boolean or null."""


class SpellingVisitor(HydraOverrideVisitor):
    """Reads overrides of text keys as written: sample.prompt=1e3 is the string "1e3", not the number 1000.0.

    Such a value is quoted in the override, so that it stays a string when a sweeper writes the overrides of its jobs.
    """

    null_allowed: Mapping[str, bool] = {}  # text key -> whether it may be null
    read_as_numbers = ("range", "interval", "int", "float", "bool")  # functions whose arguments are not strings
    key = ""  # dotted name of the key whose value is being read

    def visitKey(self, ctx: Any) -> Any:  # noqa: N802 (the names are ANTLR's)
        key = super().visitKey(ctx)
        self.key = key.key_or_group
        return key

    def visitDictKeyValuePair(self, ctx: Any) -> Any:  # noqa: N802
        with replaced(self, "key", f"{self.key}.{ctx.getChild(0).getText().strip()}"):
            return super().visitDictKeyValuePair(ctx)

    def visitFunction(self, ctx: Any) -> Any:  # noqa: N802
        has_strings = ctx.getChild(0).getText() not in self.read_as_numbers
        with replaced(self, "key", self.key if has_strings else ""):
            return super().visitFunction(ctx)

    def visitPrimitive(self, ctx: Any) -> Any:  # noqa: N802
        value = super().visitPrimitive(ctx)
        if self.key not in self.null_allowed or isinstance(value, str | QuotedString):
            return value
        return None if value is None and self.null_allowed[self.key] else Spelled(ctx.getText().strip())

    def visitOverride(self, ctx: Any) -> Override:  # noqa: N802
        override = super().visitOverride(ctx)
        override._value = quoted(override._value)
        return override


def quoted(value: Any) -> Any:
    """Return a parsed value with each `Spelled` part in quotes."""
    if isinstance(value, Spelled):
        return QuotedString(str(value), Quote.single)
    if isinstance(value, list):
        return [quoted(item) for item in value]
    if isinstance(value, dict):
        return {key: quoted(item) for key, item in value.items()}
    return replace(value, list=quoted(value.list)) if isinstance(value, ChoiceSweep) else value


def read_as_written(null_allowed: Mapping[str, bool]) -> None:
    """Make Hydra read overrides of text keys as written. `null_allowed` maps text keys to whether they may be null."""
    SpellingVisitor.null_allowed = null_allowed
    overrides_parser.HydraOverrideVisitor = SpellingVisitor  # pyright: ignore[reportPrivateImportUsage]


LOAD_FILE = ConfigLoaderImpl._load_single_config


def check_files(check: Callable[[Any, str], None]) -> None:
    """Make Hydra call `check(content, "group/option")` for each configuration file that it loads.

    The content is nested under the file's package.
    """

    def load_file(self: ConfigLoaderImpl, default: Any, repo: Any) -> Any:
        loaded = LOAD_FILE(self, default, repo)
        check(loaded.config, default.config_path)
        return loaded

    ConfigLoaderImpl._load_single_config = load_file


# Running the application


def hydra_run_job(*arguments: Any, environment: dict[str, str]) -> JobReturn:
    """Run a job as Hydra does, with the arguments of hydra.core.utils.run_job.

    `environment` has the values of hydra.job.env_set: Hydra would resolve them without the keys outside `hydra`.
    """
    override = utils.env_override
    with replaced(utils, "env_override", lambda unresolved: override(environment)):
        return utils.run_job(*arguments)


def run_hydra(
    arguments: Sequence[str],
    task_function: Callable[[DictConfig], Any],
    run_job: Callable[..., JobReturn],
    start_sweep: Callable[[DictConfig], None],
    conf: str,
) -> None:
    """Do what hydra.main does with these arguments. Raises the errors that Hydra would print.

    `run_job` replaces Hydra's function of the same name, for a single run and in Hydra's basic launcher. `start_sweep`
    is called when a sweep begins, before Hydra's callbacks: for an error in a callback, Hydra would only log a warning.
    """
    from hydra._internal import hydra as application
    from hydra._internal import utils as internal
    from hydra._internal.callbacks import Callbacks
    from hydra._internal.core_plugins import basic_launcher

    on_multirun_start = Callbacks.on_multirun_start

    def start_multirun(self: Callbacks, config: DictConfig, **others: Any) -> None:
        start_sweep(config)
        on_multirun_start(self, config=config, **others)

    sanitized = application.Hydra.get_sanitized_hydra_cfg

    def hydra_node(config: DictConfig) -> DictConfig:
        """Return the `hydra` node for --cfg hydra. Hydra would resolve it without the other keys."""
        if args.resolve or (args.package and not isinstance(OmegaConf.select(config, args.package), DictConfig)):
            OmegaConf.set_readonly(config.hydra, False)
            OmegaConf.resolve(config.hydra)
        return sanitized(config)

    version.setbase("1.3" if HAS_VERSION_BASE else version._UNSPECIFIED_)
    args, parser = parse_arguments(arguments)
    with (
        unchecked_help(),
        composed_once(args),
        replaced(application, "run_job", run_job),
        replaced(basic_launcher, "run_job", run_job),
        replaced(application.Hydra, "get_sanitized_hydra_cfg", staticmethod(hydra_node)),
        replaced(internal, "run_and_report", lambda function: function()),
        replaced(Callbacks, "on_multirun_start", start_multirun),
        replaced(application, "run_and_report", lambda function: function()),
    ):
        if args.experimental_rerun is not None and HAS_VERSION_BASE:
            rerun(args, task_function, run_job)
        else:
            internal._run_hydra(
                args=args, args_parser=parser, task_function=task_function, config_path=conf, config_name="config"
            )


MODES = {f"hydra.mode={mode.name}": mode for mode in RunMode}  # overrides that Hydra adds, by their text


@contextlib.contextmanager
def composed_once(args: argparse.Namespace) -> Iterator[None]:
    """Make Hydra reuse the configuration that it composes to find out whether the command is a sweep.

    Hydra 1.3 would compose it a second time, with one more override, of hydra.mode, and with two more checks: of the
    overrides of a single run, which is made here, and that an option is chosen for each `???` in a defaults list, which
    can only occur in a user's files.
    """
    composed: dict[Any, DictConfig] = {}
    load = ConfigLoaderImpl.load_configuration

    def load_once(
        self: ConfigLoaderImpl,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        mode = overrides[-1] if overrides and overrides[-1] in MODES and validate_sweep_overrides else None
        key = config_name, tuple(overrides[:-1] if mode else overrides)
        if not validate_sweep_overrides or key not in composed:
            found = load(self, config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
            if not validate_sweep_overrides:
                composed[key] = found
            return found
        parsed = overrides_parser.OverridesParser.create(config_loader=self).parse_overrides(overrides)
        self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        found = composed.pop(key)
        if mode:
            found.hydra.mode = MODES[mode]
            found.hydra.overrides.hydra.append(mode)
        return found

    has_files_of_user = args.config_dir or args.config_path or args.config_name or "searchpath" in str(args.overrides)
    composes_twice = HAS_VERSION_BASE and not has_files_of_user
    with replaced(ConfigLoaderImpl, "load_configuration", load_once) if composes_twice else contextlib.nullcontext():
        yield


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, argparse.ArgumentParser]:
    """Return Hydra's flags and overrides, and the parser for them. Raises UserError."""
    with unchecked_help():
        parser = get_args_parser()
    parser.error = raise_usage_error  # pyright: ignore[reportAttributeAccessIssue]
    return parser.parse_intermixed_args(list(arguments)), parser


@contextlib.contextmanager
def unchecked_help() -> Iterator[None]:
    """Let Hydra make its parser: one of its help texts is a text only when it is shown, which Python 3.14 refuses."""
    if not hasattr(argparse.ArgumentParser, "_check_help"):
        yield
        return
    with replaced(argparse.ArgumentParser, "_check_help", lambda parser, action: None):
        yield


def rerun(args: Any, task_function: Callable[[DictConfig], Any], run_job: Callable[..., JobReturn]) -> None:
    """Run the job whose configuration was saved by Hydra's PickleJobInfoCallback, as a single run."""
    from hydra._internal.callbacks import Callbacks

    file, key = args.experimental_rerun, f"--experimental-rerun {args.experimental_rerun}"
    if args.overrides or args.multirun:
        raise UserError(f"{key} takes no overrides and no other flags: it runs the saved configuration unchanged")
    try:
        config = pickle.loads(Path(file).read_bytes())
        OmegaConf.set_readonly(config.hydra, False)
    except OSError as error:
        raise UserError(f"{key}: {error.strerror}") from error
    except Exception as error:
        raise UserError(f"{key}: the file is not a configuration saved by PickleJobInfoCallback") from error
    utils.setup_globals()
    with open_dict(config.hydra):
        config.hydra.mode, config.hydra.runtime.output_dir = RunMode.RUN, "???"
        config.hydra.run.dir = OWN_FOLDER
    context = HydraContext(ConfigLoaderImpl(ConfigSearchPathImpl()), Callbacks())
    _ = run_job(task_function, config, "hydra.run.dir", None, context).return_value


def raise_usage_error(message: str) -> NoReturn:
    raise UserError(f"{message}; --hydra-help lists the flags, and --help lists the keys")


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a module, a class or an object in the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def own_hydra() -> Iterator[None]:
    """Run the block with a separate Hydra state, and restore the process-wide state of Hydra afterwards.

    Another application in this process may also use Hydra: its configurations must not be visible here, and the changes
    that `register_schema` makes to how Hydra reads overrides and files must not affect it.
    """
    names = (GlobalHydra, HydraConfig, JobRuntime, version.VersionBase)
    before = {kind: Singleton._instances.pop(kind) for kind in names if kind in Singleton._instances}
    root, handlers, level = logging.getLogger(), logging.root.handlers[:], logging.root.level
    own_configs = {name: node for name, node in ConfigStore.instance().repo.items() if name.startswith(HYDRA_S_OWN)}
    try:
        with (
            replaced(ConfigStore.instance(), "repo", own_configs),
            replaced(overrides_parser, "HydraOverrideVisitor", HydraOverrideVisitor),
            replaced(ConfigLoaderImpl, "_load_single_config", LOAD_FILE),
        ):
            yield
    finally:
        for kind in names:
            Singleton._instances.pop(kind, None)
        Singleton._instances.update(before)
        root.handlers[:], root.level = handlers, level
