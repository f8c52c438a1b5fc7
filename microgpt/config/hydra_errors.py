"""Explains every error in one sentence, in place of the long messages of Hydra, OmegaConf and YAML."""

import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from microgpt.config.hydra_compat import override_in
from microgpt.config.hydra_optuna import missing_plugin
from microgpt.config.hydra_schema import unknown_key
from microgpt.config.keys import keys_of
from microgpt.config.schema import Config
from microgpt.data.display import escaped
from microgpt.errors import MicrogptError, UserError, place_of

# A part of OmegaConf's message about a value -> what is allowed instead.
ALLOWED = {
    "could not be converted to Integer": "must be an integer",
    "could not be converted to Float": "must be a number",
    "is not a valid bool": "must be true or false",
    "is not Optional": "cannot be null",
    "is not a ListConfig": "must be a list, as in [a,b]",
    "is not a subclass of": "is a group of keys, not a value",
    "does not support deletion": "is part of every run and cannot be removed",
}


def report(error: Exception, prefix: str = "") -> int:
    """Print an error on stderr, as one sentence or, for a bug, with its traceback. Returns the exit code."""
    sentence, code = explain(error)
    if sentence is None:
        print(prefix + "".join(traceback.format_exception(error)), file=sys.stderr, end="")
    else:
        print(f"{prefix}error: {escaped(sentence)}", file=sys.stderr)
    return code


def explain(error: BaseException) -> tuple[str | None, int]:
    """Return the message for an error, or None for a bug, and the exit code."""
    if isinstance(error, MicrogptError):
        return str(error), error.exit_code
    if isinstance(error, yaml.YAMLError):
        return explain_yaml(error), 2
    if isinstance(error, (HydraException, OmegaConfBaseException)) or is_raised_in_hydra(error):
        return explain_composition(error), 2
    if isinstance(error, OSError):  # after Hydra's errors: the one about a missing option is also an OSError
        return f"{place_of(error, 'reading or writing')}: {error.strerror or error}", 1
    return None, 1


def is_raised_in_hydra(error: BaseException) -> bool:
    """Return whether Hydra or OmegaConf raised this built-in error, as they do for some inputs."""
    last = traceback.extract_tb(error.__traceback__)[-2:]  # two frames, because decoding a file adds one
    is_theirs = any(re.search(r"/(hydra|omegaconf)/", frame.filename) for frame in last)
    if isinstance(error, KeyError):  # from os.environ
        return is_theirs and last[-1].filename in (os.__file__, "<frozen os>")
    return is_theirs and isinstance(error, ValueError | TypeError | AssertionError)


def explain_yaml(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    place = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a configuration file"
    return f"{place} is not YAML: {problem or first_line(error)}"


def explain_composition(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, KeyError):
        name = error.args[0] if error.args else ""
        return f"hydra.job.env_copy contains {name}, but the environment has no such variable"
    if found := re.search(r"Either remove \+ prefix: '(.*)'", text):
        return f"+{found.group(1)} is not allowed: write {found.group(1)}, without +"
    if isinstance(error, InstantiationException):  # for a callback, a launcher or a sweeper
        what = first_line(error).partition(", set env var")[0].rstrip(":")
        reason = list(chain(error.__cause__))[-1:]  # the first error
        return f"{what}: {first_line(reason[0])}" if reason else what
    if isinstance(error, MissingConfigException):
        return explain_missing_option(text)
    if isinstance(error, OverrideParseException):
        key, is_pair = error.override.split("=")[0], "=" in error.override.strip("=")
        quoting = f"; put other characters than letters and digits in quotes: '{key}=\"...\"'" if is_pair else ""
        return f"{error.override} is not an override: write key=value, or group=option{quoting}"
    if "Config group override must be a string" in text:
        given = override_in(error)
        which = f"{given} is not allowed: {given.partition('=')[0]}" if given else "a config group"
        return f"{which} takes the name of an option, as in model=gpt, not null or a number"
    if found := re.match(r"No completion plugin for '(.*)' found, available :\s*(.*)", text, re.DOTALL):
        return f"-sc install={found.group(1)} is not allowed: it must be one of {', '.join(found.group(2).split())}"
    if found := re.match(r"Ambiguous value for argument '(.*)'", text):
        how = "add -m (in Python, call microgpt.sweep) to run all of them"
        return f"{found.group(1)} has several values: {how}, or put them in quotes to use them as one value"
    return explain_value(error)


def added_option(error: Exception, arguments: Iterable[str]) -> UserError | None:
    """Return the error about +group=option for a group that already has an option; None if `error` is another error."""
    found = re.match(r"Multiple values for (\S+)\.|(\S+) appears more than once in the final defaults list", str(error))
    if isinstance(error, HydraException) and found:
        group = found.group(1) or found.group(2)
        for argument in arguments:
            if argument.startswith(f"+{group}="):
                return UserError(f"{argument} is not allowed: write {argument[1:]}, without +")
    return None


def explain_value(error: BaseException) -> str:
    """Return the error message for a key that does not exist, or for a value that its key does not allow."""
    cause = next((e for e in chain(error) if getattr(e, "full_key", None)), error)
    key, value, reason = getattr(cause, "full_key", None), getattr(cause, "value", None), sentences(cause)
    place = f" (in {found.group(1)}.yaml)" if (found := re.match(r"In '([^']+)'", str(error))) else ""
    if found and key and key not in keys_of(Config) and found.group(1).startswith(f"{key}/"):
        return f"{found.group(1)}.yaml sets {key}.*, which are not keys: its first line must be # @package _global_"
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and key:
        return unknown_key(key) + place
    if found := re.search(r"Error merging override ([^\s=]+)=?(\S*)", str(error)):
        key, value = found.groups()
    allowed = next((words for pattern, words in ALLOWED.items() if pattern in str(cause)), None)
    if not key:
        detail = str(error).strip().splitlines()[1:2] if place else []
        return (" ".join(detail) or reason) + place
    shown = key if value in (None, "") else f"{key}={value}"
    return f"{shown} is not allowed{place}: " + (f"{key.lstrip('~')} {allowed}" if allowed else reason)


def explain_missing_option(text: str) -> str:
    """Return the error message for an option that does not exist, with the options that Hydra's message lists."""
    loaded = re.search(r"Could not load '([^']+)/([^'/]+)'", text)
    if loaded and loaded.group(1) in keys_of(Config):  # Hydra reads a list as several options
        group, option = loaded.groups()
        return f"{group}=[{option}] is not allowed: {group} takes the name of one option, not a list"
    found = re.search(r"Could not find '([^']+)/([^'/]+)'", text)
    listed = re.search(r"Available options in [^\n]*\n((?:\t[^\n]*\n)*)", text)
    if found is not None and found.group(1) == "hydra/sweeper/sampler" and (message := missing_plugin()) is not None:
        return message
    if found is None or listed is None:
        return sentences(text)
    options = ", ".join(sorted(listed.group(1).split()))
    return f"{found.group(1)}={found.group(2)} is not an option: {found.group(1)} must be one of {options}"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, then its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def sentences(error: Any) -> str:
    """Return the first paragraph of a message on one line, without the fields that OmegaConf adds."""
    lines = [line.strip() for line in str(error).strip().partition("\n\n")[0].splitlines()]
    text = " ".join(line for line in lines if not re.match(r"(full_key|object_type|reference_type)[:=]", line))
    return re.sub(r'^\w+ (raised )?while resolving interpolation: "?(.*?)"?$', r"\2", text) or first_line(error)


def first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
