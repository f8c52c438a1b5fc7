"""Starting is cheap, and every room of the package imports only what it may know."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Program

PACKAGE = Path(__file__).parents[1] / "microgpt"
HEAVY = ("torch", "numba", "pandas", "scipy", "matplotlib")
# Runs the program on the arguments that follow, then says which of the heavy libraries it has loaded.
SPY = f"""
import sys
from microgpt.app import main
try:
    code = main()
except SystemExit as exit:
    code = exit.code
print("loaded:", *[name for name in {HEAVY} if name in sys.modules])
sys.exit(code)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["mode=scalar", "experiment=debug", "train.steps=2", "sample.num_samples=1"],
        ["--help"],
        ["--cfg", "job"],
    ],
    ids=" ".join,
)
def test_no_heavy_library_is_loaded(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", SPY, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].rstrip() == "loaded:", done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("flag", ["--help", "--cfg=job"])
def test_what_only_composes_starts_without_numpy_too(tmp_path: Path, flag: str) -> None:
    """It takes a quarter of the time that --help takes."""
    spy = SPY.replace(f"{HEAVY}", '("numpy",)')
    done = subprocess.run([sys.executable, "-c", spy, *flag.split("=")], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1].rstrip() == "loaded:", done.stderr


def test_help_lists_groups_options_and_keys(microgpt: Program) -> None:
    stdout = microgpt("--help").stdout
    for line in (
        "task: benchmark, chat, export, info, sample, serve, train",
        "mode: scalar, tensor",
        "backend: auto, native, python, torch",
        "data: chat, makemore, names, text",
        "style: classic, futuristic",
        "optim: adam, adamw, sgd",
        "schedule: constant, cosine, linear, sqrt, warmdown",
    ):
        assert line in stdout.splitlines()
    assert "python -m microgpt experiment=ablation" in stdout
    assert "  block_size: 16" in stdout.splitlines()
    assert not microgpt.files()


def test_cfg_job_shows_the_configuration_and_runs_nothing(microgpt: Program) -> None:
    lines = microgpt("--cfg", "job", "train.steps=7").stdout.splitlines()
    groups = {line.rstrip(":") for line in lines if line.endswith(":") and not line.startswith(" ")}
    assert groups >= {"task", "mode", "backend", "model", "style", "data", "optim", "schedule", "train", "sample"}
    assert "  steps: 7" in lines
    assert not microgpt.files()


# Rooms


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions; `from a import b` may mean the module a.b."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_below(file: Path, *roots: str) -> set[str]:
    return {name for name in imports(file) if any(name == root or name.startswith(f"{root}.") for root in roots)}


def modules(*parts: str) -> list[Path]:
    return sorted(PACKAGE.joinpath(*parts).rglob("*.py"))


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


RULES = ("rules", "task_rules", "requirements")
ABOVE_DATA_AND_MODEL = [
    f"microgpt.{room}" for room in (
        "engines", "tasks", "training", "config", "reports", *RULES, "assembly", "app", "checkpoint", "generation",
        "record", "runs", "outcome", "console",
    )
]  # fmt: skip
FORBIDDEN = {
    "data": [*ABOVE_DATA_AND_MODEL, "microgpt.model"],
    "model": [*ABOVE_DATA_AND_MODEL, "microgpt.data"],
    "engines": [f"microgpt.{room}" for room in ("tasks", "training", "config", *RULES, "assembly", "app", "reports",
                                                "checkpoint", "record", "runs", "atomic")],
    "training": [f"microgpt.{room}" for room in ("tasks", "config", *RULES, "assembly", "app", "reports", "runs")],
    "serve": [f"microgpt.{room}" for room in ("tasks", *RULES, "app", "reports", "runs", "trainer", "sweep")],
    "reports": [f"microgpt.{room}" for room in ("tasks", "training", "engines", "app", "assembly")],
}  # fmt: skip


@pytest.mark.parametrize("room", FORBIDDEN)
def test_room_imports_nothing_from_above(room: str) -> None:
    assert modules(room), "the room exists"
    assert {relative(file): imports_below(file, *FORBIDDEN[room]) for file in modules(room)} == {
        relative(file): set() for file in modules(room)
    }


@pytest.mark.parametrize("name", ["value.py", "model.py", "optimizers.py"])
def test_scalar_engine_s_own_files_need_the_standard_library_alone(name: str) -> None:
    file = PACKAGE / "engines" / "scalar" / name
    ours = imports_below(file, "microgpt")
    foreign = {module for module in set(imports(file)) - ours if module.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == set()
    allowed = "microgpt.model.spec", "microgpt.engines.optimizer", "microgpt.engines.scalar"
    assert ours == imports_below(file, *allowed)


def test_hydra_and_omegaconf_stop_at_the_configuration() -> None:
    users = {relative(file) for file in modules() if imports_below(file, "hydra", "omegaconf")}
    assert users == {
        "app.py", "config.py", "explain.py",
        *(f"sweep/{name}.py" for name in ("composition", "ending", "launcher", "plugins")),
    }  # fmt: skip


def test_heavy_libraries_are_imported_in_their_rooms_alone() -> None:
    users = {relative(file) for file in modules() if imports_below(file, *HEAVY)}
    assert {user for user in users if not user.startswith(("reports/", "engines/", "benchmarks/"))} == set()
