"""Registers the schema with Hydra, and converts a composed configuration to frozen dataclasses."""

import difflib
from dataclasses import replace
from typing import Any, TypeVar

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from microgpt.config.hydra_compat import check_files, read_as_written
from microgpt.config.keys import keys_of, text_keys, value_at, walk
from microgpt.config.schema import Config
from microgpt.errors import UserError

Node = TypeVar("Node")
MADE: dict[str, tuple[dict[Any, Any], Any]] = {}  # the last dictionary of each group, and the object built from it


def register_schema() -> None:
    """Register the schema as `schema`, the first entry of the defaults list in conf/config.yaml.

    From then on, an override of a text key is read as it is written, and the value in a file must be a string.
    """
    node = OmegaConf.structured(Config)
    for part in (node, *(node[key] for key in node)):  # frozen dataclasses become read-only nodes
        if isinstance(part, DictConfig):
            OmegaConf.set_readonly(part, None)
    ConfigStore.instance().repo.pop("schema.yaml", None)  # Hydra 1.4 warns of a second one
    ConfigStore.instance().store(name="schema", node=node)
    read_as_written(text_keys(Config))
    check_files(refuse_values_that_are_no_texts)


def refuse_values_that_are_no_texts(content: Any, file: str) -> None:
    """Raise UserError for a number or a boolean that a file sets for a text key: YAML has lost its spelling."""
    plain = OmegaConf.to_container(content)
    if not isinstance(plain, dict):
        return
    swept = value_at(plain, "hydra.sweeper.params")
    is_ours = bool(plain.keys() & keys_of(Config).keys())  # not one of Hydra's own files
    for key in text_keys(Config) if is_ours or isinstance(swept, dict) else ():
        for value in (value_at(plain, key), swept.get(key) if isinstance(swept, dict) else None):
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, bool | int | float):
                    kind = "boolean" if isinstance(item, bool) else "number"
                    raise UserError(
                        f"{key}={str(item).lower()} is not allowed (in {file}.yaml): {key} takes a string, but YAML "
                        f"reads this value as a {kind}; put it in quotes"
                    )


def keys_with_help(*, _root_: DictConfig) -> str:
    """Return all keys and values as YAML, with help texts as comments. Registered as a resolver for conf/hydra/help.

    Hydra substitutes the variables of the result, so a dollar sign in a value is doubled.
    """
    texts = {name: stated.text for name, _, stated in walk(Config())}
    lines, group = [], ""
    for line in OmegaConf.to_yaml(OmegaConf.masked_copy(_root_, list(keys_of(Config)))).splitlines():
        name = line.partition(":")[0]
        group = group if line.startswith(" ") else name
        text = texts.get(f"{group}.{name.strip()}" if line.startswith(" ") else name)
        lines.append(f"{line:<31} # {text}" if text else line)
    return "\n".join(lines).replace("$", "$$")


def from_values(plain: Any, choices: dict[str, Any]) -> Config:
    """Return a configuration that OmegaConf has checked, given as dictionaries, as frozen dataclasses.

    `choices` maps groups to the chosen options. Raises UserError for a key that the schema does not have.
    """
    refuse_unknown_keys(plain)  # Hydra accepts any key that is added with +
    for key in keys_of(Config):
        if key not in plain:
            raise UserError(f"~{key} is not allowed: {key} is part of every run and cannot be removed")
    refuse_names_of_options(plain, choices)
    config = from_plain(Config, plain)
    names = {group: name_of(group, plain, choices) for group in ("model", "style")}
    changed = {
        group: replace(getattr(config, group), name=name)
        for group, name in names.items()
        if getattr(config, group).name != name
    }
    return replace(config, **changed) if changed else config


def name_of(group: str, plain: Any, choices: dict[str, Any]) -> str:
    """Return the name of a model or a style; if a user's file has none, the name of the option."""
    name = plain[group]["name"] or choices.get(group)
    if choices and not name:
        raise UserError(f"{group}.name is empty: choose an option with {group}=<option> or set {group}.name")
    return str(name)


def refuse_names_of_options(plain: Any, choices: dict[str, Any]) -> None:
    """Raise UserError for optim.name=sgd instead of optim=sgd: it would keep the other keys of optim=adam."""
    for group, stated in keys_of(Config).items():
        options = keys_of(stated.node)["name"].one_of if stated.node and "name" in keys_of(stated.node) else ()
        name, choice = plain[group]["name"] if options else None, choices.get(group)
        if name in options and choice in options and name != choice:
            raise UserError(f"{group}.name={name} is not allowed: choose the option with {group}={name}")


def explained_by_option(error: UserError, config: Config, choices: dict[str, Any]) -> UserError:
    """Return the error; for a group from a user's file without a name, with the default name that was used."""
    group = str(error).partition(".")[0]
    choice: Any = choices.get(group)
    node: Any = vars(config).get(group)
    if choice is None or node is None or "name" not in keys_of(type(node)):
        return error
    options, default = keys_of(type(node))["name"].one_of, type(node)().name
    if not options or choice in options or node.name != default:
        return error
    names = ", ".join(options)
    return UserError(f"{error}; {group}={choice} is treated as {default} unless its file sets name to one of {names}")


def from_plain(node: type[Node], plain: dict[Any, Any]) -> Node:
    """Return a dataclass of the schema with the values of a dictionary that OmegaConf has checked."""
    groups = {name: stated.node for name, stated in keys_of(node).items() if stated.node is not None}
    return node(**plain | {name: group_from_plain(name, inner, plain[name]) for name, inner in groups.items()})


def group_from_plain(name: str, node: type, plain: dict[Any, Any]) -> Any:
    """Return a group of the configuration. Jobs of a sweep that share the dictionary share the object."""
    last, made = MADE.get(name, (None, None))
    if last is not plain:
        made = from_plain(node, plain)
        MADE[name] = plain, made
    return made


def refuse_unknown_keys(plain: dict[Any, Any], node: type = Config, path: str = "") -> None:
    known = keys_of(node)
    for key, value in plain.items():
        if key not in known:
            raise UserError(unknown_key(f"{path}{key}"))
        inner = known[key].node
        if inner is not None and isinstance(value, dict) and MADE.get(key, (None,))[0] is not value:
            refuse_unknown_keys(value, inner, f"{path}{key}.")


def unknown_key(key: str) -> str:
    """Return the error message for a key that does not exist, with the existing keys and the closest one."""
    if key.startswith("hydra/"):
        return unknown_group_of_hydra(key)
    group, _, name = key.rpartition(".")
    if group.partition(".")[0] == "hydra":
        allowed = keys_of_hydra(group)
    else:
        node: type | None = Config
        for part in filter(None, group.split(".")):
            node = keys_of(node)[part].node if node is not None and part in keys_of(node) else None
        allowed = None if node is None else list(keys_of(node))
    if group in ("hydra.launcher", "hydra.sweeper"):
        return f"{key} is not a key of the chosen {group.replace('.', '/')}"
    if allowed is None:
        return f"{key} is not a key: {group} is not a group of keys"
    if not allowed:
        return f"{group} does not have {name}: write +{key} to add it"
    meant = closest(name, allowed, f"{group}." if group else "")
    return f"{key} is not a key: {group or 'the configuration'} has {', '.join(allowed)}{meant}"


def unknown_group_of_hydra(key: str) -> str:
    """Return the error message for a config group such as hydra/launcher that does not exist."""
    groups = [str(name) for entry in HydraConf().defaults if isinstance(entry, dict) for name in entry]
    meant = closest(key.partition("/")[2], groups, "hydra/")
    return f"{key} is not a config group: hydra has {', '.join(groups)}{meant}"


def closest(name: str, allowed: list[str], prefix: str) -> str:
    """Return the end of an error message with the most similar allowed name, if there is one."""
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def keys_of_hydra(group: str) -> list[str] | None:
    """Return the keys of one of Hydra's groups; an empty list if the group accepts any key, None if it is no group."""
    node = OmegaConf.select(OmegaConf.create({"hydra": OmegaConf.structured(HydraConf)}), group)
    return [str(key) for key in node] if isinstance(node, DictConfig) else None
