"""The commands of README and of the guides, in their order in one folder; and what the documents say of files."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.program import Program
from support.server_process import start_server

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = ["training", "data", "experiments", "chat", "exporting", "serving", "engines", "performance"]
TEXTS = [README, *((ROOT / "docs" / f"{name}.md").read_text() for name in GUIDES)]
NEEDS_NAMES = ("experiment=karpathy", "data=makemore")
# tests/engines/test_golden.py runs these.
RUN_ELSEWHERE = ("python -m microgpt experiment=karpathy", "python -m microgpt experiment=karpathy_first")
# Named by the documents but not files of the project: the reference, and the examples of docs/adding.md.
NOT_OURS = {"microgpt.py", "conf/optim/lion.yaml", "conf/style/pirate.yaml", "style/pirate.yaml"}

# Commands that train as many steps as the configuration says: fewer show that they run.
DEFAULT_STEPS = re.compile(r"(?!.*( task=|train\.(steps|resume)|--help|--cfg))(python -m microgpt|torchrun)")


def commands() -> list[str]:
    """Each line of a shell block that runs the program, once, apart from the two that set it up."""
    blocks = [block for text in TEXTS for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
    run = re.compile(r"python (-m microgpt|scripts/)|torchrun |curl ")
    lines = [line for block in blocks for line in block.splitlines() if run.match(line)]
    return [line for line in dict.fromkeys(lines) if line not in RUN_ELSEWHERE]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def set_up(name: str) -> str:
    found = re.search(rf"<!-- set-up: {name} -->\n```sh\n(.*?)\n```", README, re.DOTALL)
    assert found, f"README has no set-up command {name}"
    return found.group(1)


@pytest.mark.slow
def test_every_command_of_readme_and_guides_runs(tmp_path: Path, microgpt: Program) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "input.txt").write_text("".join(f"the {n} small model reads line {n}.\n" for n in range(200)))
    talk = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    talks = [[*talk, {"role": "user", "content": "x" * n}, {"role": "assistant", "content": "y"}] for n in range(20)]
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in talks))
    styles = tmp_path / "mine" / "style"
    styles.mkdir(parents=True)
    yaml = re.search(r"^```yaml\n(.*?)^```$", "".join(TEXTS), re.MULTILINE | re.DOTALL)
    assert yaml
    (styles / "pirate.yaml").write_text(yaml.group(1))
    ran, port, server = [], free_port(), None
    for command in commands():
        if any(name in command for name in NEEDS_NAMES) and "MICROGPT_DATA_DIR" not in os.environ:
            continue  # they would fetch the reference's names.txt
        shell = f"{command} train.steps=50" if DEFAULT_STEPS.match(command) else command
        shell = shell.replace("8080", str(port)).replace("curl", "curl --fail --silent --show-error", 1)
        if "task=serve" in command:  # it answers the commands that follow
            keys = [key for key in command.split()[3:] if key not in ("task=serve", "checkpoint=latest")]
            server = start_server(microgpt, f"serve.port={port}", *keys)
            ran.append(command)
            continue
        shell = shell.replace("torchrun", "python -m torch.distributed.run", 1).replace("python", sys.executable, 1)
        done = subprocess.run(shell, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        ran.append(command)
    assert len(ran) >= 40
    assert server is not None
    assert server.stop() == 0
    assert (tmp_path / "results" / "ablation_style-futuristic.md").is_file()


def test_ci_runs_the_readmes_own_set_up_commands() -> None:
    assert set_up("run").endswith("python -m microgpt mode=scalar style=classic train.steps=500")
    assert set_up("test").endswith("python -m pytest")
    script = (ROOT / ".ci" / "run").read_text()
    assert "readme_command run" in script
    assert "readme_command test" in script


def test_every_link_of_the_documents_leads_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            if not (page.parent / target).exists():
                broken.append((page.name, target))
    assert not broken


def test_the_documents_name_only_files_that_exist() -> None:
    missing = []
    for page in [ROOT / "docs" / "architecture.md", ROOT / "docs" / "adding.md", *(ROOT / "docs/decisions").iterdir()]:
        for name in re.findall(r"\b(?:[a-z_]+/)+(?:[a-z_]+\.(?:py|md|yaml))?|\b[a-z_]+\.py\b", page.read_text()):
            places = (ROOT, ROOT / "microgpt", ROOT / "microgpt" / "engines", page.parent)
            if name in NOT_OURS:
                continue
            if not any((place / name).exists() for place in places) and not list((ROOT / "microgpt").rglob(name)):
                missing.append((page.name, name))
    assert not missing


def test_every_package_stands_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.split("## Packages", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"\b([a-z_]+(?:\.py|/))", " ".join(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE))))
    found = {path.name + ("/" if path.is_dir() else "") for path in (ROOT / "microgpt").iterdir()}
    assert found - named == {name for name in found if name.startswith("__")}
