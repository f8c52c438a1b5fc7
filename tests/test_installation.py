"""The command that installs an extra works in a checkout and with an installed wheel."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from support.program import ROOT

from microgpt import installation
from microgpt.installation import DISTRIBUTION, install_command

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_command_in_a_checkout_is_short_in_its_folder_and_has_paths_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert install_command("serve") == 'pip install -c constraints.txt -e ".[serve]"'
    monkeypatch.chdir(tmp_path)
    words = shlex.split(install_command("serve"))
    assert words == ["pip", "install", "-c", f"{ROOT}/constraints.txt", "-e", f"{ROOT}[serve]"]


def test_command_of_an_installed_wheel_names_the_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "site-packages" / "microgpt" / "installation.py"))
    assert install_command("wandb") == 'pip install "microgpt-lab[wandb]"'
    assert PROJECT["name"] == DISTRIBUTION


def test_cpu_wheel_of_pytorch_is_mentioned_for_the_extras_that_install_it() -> None:
    def needs_torch(extra: str) -> bool:
        return any(re.match(rf"torch\b|{DISTRIBUTION}\[.*torch", part) for part in EXTRAS[extra])

    assert {extra for extra in EXTRAS if "whl/cpu" in install_command(extra)} == {"torch", "onnx"}
    assert {extra for extra in EXTRAS if needs_torch(extra)} - {"dev"} == {"torch", "onnx"}


def test_commands_are_written_in_one_place_and_name_extras_that_exist() -> None:
    """No message contains its own command, and commands in documents refer to this project and existing extras."""
    sources = [*(ROOT / "microgpt").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    printed = {file.name for file in sources if re.search(r"pip install [^\n]*\[", file.read_text())}
    assert printed == {"installation.py", "build_names.py"}
    for file in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *sources]:
        if file.name == "log.md":  # what was done at the time
            continue
        text = file.read_text()
        assert not re.search(r"pip install [\"']?microgpt(?!-lab)\b", text), f"{file}: a project of others"
        for extras in re.findall(r"pip install [^\n`]*?(?:\.|microgpt-lab)\[([\w,]+)\]", text):
            assert set(extras.split(",")) <= set(EXTRAS), file


def test_package_states_that_it_has_types_and_the_versions_of_python_that_were_tried() -> None:
    assert (ROOT / "microgpt" / "py.typed").read_bytes() == b""
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert versions[0] == PROJECT["requires-python"].removeprefix(">=")
    assert versions == sorted(versions, key=lambda version: int(version.split(".")[1]))


def test_package_in_a_zip_file_says_how_to_install_it(tmp_path: Path) -> None:
    wheel = tmp_path / "microgpt_lab-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in (ROOT / "microgpt").rglob("*.py"):
            archive.write(file, file.relative_to(ROOT))
    done = subprocess.run(
        [sys.executable, "-m", "microgpt", "experiment=debug"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(wheel)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f'error: microgpt does not run from a zip file: pip install "{wheel}"\n'
    assert list(tmp_path.iterdir()) == [wheel]
