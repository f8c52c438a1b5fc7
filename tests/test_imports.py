"""Packages import only downward, and heavy libraries are imported in few packages."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from support.program import HEAVY, ROOT

PACKAGE = ROOT / "microgpt"
# Top first. A module may import its own package and the packages of lower lines, not another one of its line.
LAYERS: list[tuple[str, ...]] = [
    ("__main__",),
    ("api",),
    ("app",),
    ("job",),
    ("tasks",),
    ("sweeps",),
    ("benchmarks", "explain", "serve"),
    ("training",),
    ("reports",),
    ("inference",),
    ("config",),
    ("runs",),
    ("engines",),
    ("data",),
    ("model",),
    ("atomic", "distributed", "errors", "installation"),
    ("__init__",),
]
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


@cache
def imports(file: Path) -> tuple[str, ...]:
    return tuple(imported_names(file))


def imported_names(file: Path) -> Iterator[str]:
    """Yield the full names of a file's imports, including those in functions: `from a import b` is a.b."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(*parts: str) -> list[Path]:
    return sorted(PACKAGE.joinpath(*parts).rglob("*.py"))


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def package_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_package(name: str) -> str | None:
    """Return the package or root module of a full name, or None outside microgpt."""
    parts = name.split(".")
    if parts[0] != "microgpt":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in RANKS else "__init__"


def users_of(*roots: str) -> set[str]:
    return {relative(file) for file in modules() if {name.split(".")[0] for name in imports(file)} & set(roots)}


def test_every_package_has_a_rank() -> None:
    found = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__pycache__", "conf", "py.typed"} == set(RANKS)


def test_no_import_points_upward() -> None:
    upward = set()
    for file in modules():
        own = package_of(file)
        if own == "__init__":  # the public names, which it imports when they are used
            continue
        for name in imports(file):
            other = imported_package(name)
            if other is not None and other != own and RANKS[other] <= RANKS[own]:
                upward.add((relative(file), name))
    assert upward == set()


@pytest.mark.parametrize("name", ["value.py", "model.py", "optimizers.py"])
def test_the_scalar_engine_s_model_needs_only_the_standard_library(name: str) -> None:
    found = set(imports(PACKAGE / "engines" / "scalar" / name))
    ours = {full for full in found if imported_package(full)}
    assert {full for full in found - ours if full.split(".")[0] not in sys.stdlib_module_names} == set()
    allowed = ("microgpt.model.spec.", "microgpt.engines.optimizer.", "microgpt.engines.scalar.")
    assert {full for full in ours if not full.startswith(allowed)} == set()


def test_hydra_and_omegaconf_are_used_in_the_application_config_and_sweeps_only() -> None:
    users = users_of("hydra", "omegaconf")
    assert {user for user in users if not user.startswith(("sweeps/", "config/hydra_"))} == {"app.py", "job.py"}


def test_heavy_libraries_are_imported_in_the_api_reports_engines_and_benchmarks_only() -> None:
    assert {user.split("/")[0] for user in users_of(*HEAVY)} <= {"api", "reports", "engines", "benchmarks"}
