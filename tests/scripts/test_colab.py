"""colab_gpu_benchmark.sh and colab_url.py: the programs that they start, and their messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_gpu import ROOT, SCRIPTS, SMI, VERSION, Machine

COLAB = "colab_gpu_benchmark.sh"
URL = "https://colab.research.google.com/github/{}/notebooks/colab_gpu_benchmark.ipynb"
# Behaviour of a Python with microgpt and PyTorch, with neither, and with PyTorch alone; the benchmark's exit code.
HAS_BOTH = '*importlib.metadata*) exit 0 ;; *"pip install"*) exit 95 ;;'
HAS_NEITHER = '*importlib.metadata*) exit 1 ;; *"pip install"*) exit 0 ;;'
HAS_TORCH = "*version*microgpt*) exit 1 ;; " + HAS_BOTH.replace("95", "0")
COMPARES = "*benchmark_karpathy.py*) exit {} ;;"
NO_GPU = VERSION.replace("cuda 12.8", "cpu") + "visible=0\n"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path).make()
    machine.no_network()
    machine.program("nvidia-smi", SMI)
    return machine


def python(machine: Machine, has: str, benchmark: int = 0, probe: str = "") -> None:
    other = f'case "$*" in {has} {COMPARES.format(benchmark)} *) exit 96 ;; esac'
    machine.python(other=other, **({"probe": probe, "status": 1} if probe else {}))


def steps(machine: Machine) -> list[str]:
    """Return the programs that were started, in order, without mere queries."""
    names = {"pip install": "install", "gpu_probe": "doctor", "benchmark_karpathy.py": "compare"}
    found = [next((step for name, step in names.items() if name in call), "") for call in machine.calls()]
    return [step for step in found if step]


def comparison(machine: Machine) -> list[str]:
    """Return the options of the benchmark."""
    (call,) = [call for call in machine.calls() if "benchmark_karpathy.py" in call]
    return call.split("benchmark_karpathy.py ")[1].split()


def test_colab_runs_the_doctor_and_then_compares(machine: Machine) -> None:
    python(machine, HAS_BOTH)
    done = machine(COLAB)
    assert done.returncode == 0, done.stderr
    assert steps(machine) == ["doctor", "compare"]
    assert "verdict: OK" in done.stdout
    expected = ["--baseline", "nanogpt", "--profile", "auto", "--require-gpu", "--install-deps"]
    assert comparison(machine) == expected


def test_every_variable_of_colab_is_an_option_of_the_benchmark(machine: Machine) -> None:
    python(machine, HAS_BOTH)
    given = {
        "NANOGPT_REF": "a", "NANOCHAT_REF": "b", "NANOGPT_DIR": "c", "NANOCHAT_DIR": "d", "MICROGPT_FILE": "e",
        "STEPS": "10", "REPEATS": "2", "TIMEOUT": "60", "SEED": "7",
    }  # fmt: skip
    assert machine(COLAB, BASELINE="all", PROFILE="full", REQUIRE_GPU="0", INSTALL="0", **given).returncode == 0
    options = [part for key, value in given.items() for part in (f"--{key.lower().replace('_', '-')}", value)]
    assert comparison(machine) == ["--baseline", "all", "--profile", "full", "--no-require-gpu", *options]
    known = subprocess.run(
        [sys.executable, str(SCRIPTS / "benchmark_karpathy.py"), "--help"], capture_output=True, text=True, check=True
    )
    for option in [part for part in comparison(machine) if part.startswith("--")]:
        assert option in known.stdout


@pytest.mark.parametrize(("has", "extra"), [(HAS_NEITHER, "[torch]"), (HAS_TORCH, "")])
def test_colab_installs_what_is_missing_and_keeps_an_installed_pytorch(machine: Machine, has: str, extra: str) -> None:
    python(machine, has)
    done = machine(COLAB)
    assert done.returncode == 0, done.stderr
    assert steps(machine) == ["install", "doctor", "compare"]
    (call,) = [call for call in machine.calls() if "pip install" in call]
    assert call == f"python -m pip install --quiet --editable {ROOT}{extra}"


def test_colab_installs_nothing_with_install_0(machine: Machine) -> None:
    python(machine, HAS_NEITHER)
    assert machine(COLAB, INSTALL="0").returncode == 0
    assert steps(machine) == ["doctor", "compare"]
    assert "--install-deps" not in comparison(machine)


def test_colab_ends_if_the_installation_fails(machine: Machine) -> None:
    python(machine, HAS_NEITHER.replace("exit 0", "exit 1"))
    done = machine(COLAB)
    assert (done.returncode, done.stderr) == (1, "error: microgpt could not be installed\n")
    assert steps(machine) == ["install"]


def test_colab_compares_nothing_without_a_required_gpu(machine: Machine) -> None:
    python(machine, HAS_BOTH, probe=NO_GPU)
    done = machine(COLAB)
    assert done.returncode == 1
    assert "verdict: NOT USABLE" in done.stdout
    assert done.stderr.startswith("error: without a usable GPU, nothing is compared")
    assert steps(machine) == ["doctor"]


def test_colab_compares_on_the_cpu_with_require_gpu_0(machine: Machine) -> None:
    python(machine, HAS_BOTH, probe=NO_GPU)
    done = machine(COLAB, REQUIRE_GPU="0")
    assert done.returncode == 0
    assert "verdict: NOT USABLE (for information only)" in done.stdout
    assert "--no-require-gpu" in comparison(machine)


@pytest.mark.parametrize("status", [1, 3, 124])
def test_colab_has_the_exit_code_of_the_benchmark(machine: Machine, status: int) -> None:
    python(machine, HAS_BOTH, benchmark=status)
    assert machine(COLAB).returncode == status


@pytest.mark.parametrize("option", ["--dry-run", "DRY_RUN"])
@pytest.mark.parametrize("has", [HAS_BOTH, HAS_NEITHER])
def test_a_dry_run_of_colab_installs_and_downloads_nothing(machine: Machine, option: str, has: str) -> None:
    python(machine, has)
    done = machine(COLAB, option) if option == "--dry-run" else machine(COLAB, DRY_RUN="1")
    assert done.returncode == 0
    shown = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert ("pip install" in done.stdout) == (has == HAS_NEITHER)
    assert any("nvidia_doctor.sh" in line for line in shown)
    # Only the benchmark itself runs, with --dry-run; that needs microgpt.
    assert steps(machine) == (["compare"] if has == HAS_BOTH else [])
    assert all("--dry-run" in call for call in machine.calls() if "benchmark_karpathy" in call)
    assert all(call.startswith("python ") for call in machine.calls())
    assert not list(machine.here.iterdir())


@pytest.mark.slow
def test_a_dry_run_with_the_real_benchmark_touches_no_network(machine: Machine) -> None:
    machine.real_python()
    done = machine(COLAB, BASELINE="all", PROFILE="quick", REQUIRE_GPU="0", DRY_RUN="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [call for call in machine.calls() if not call.startswith("git rev-parse")] == []
    assert "nanochat" in done.stdout
    assert not list(machine.here.iterdir())


@pytest.mark.parametrize("variable", ["BASELINE", "PROFILE", "REQUIRE_GPU", "INSTALL", "DRY_RUN"])
def test_an_invalid_variable_is_exit_code_2(machine: Machine, variable: str) -> None:
    python(machine, HAS_BOTH)
    done = machine(COLAB, **{variable: "maybe"})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {variable}=maybe is not allowed: ")
    assert machine.calls() == []


def test_unknown_option_and_missing_python_are_errors(machine: Machine) -> None:
    done = machine(COLAB, "--gpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --gpu is not an option")
    done = machine(COLAB)
    assert (done.returncode, done.stderr) == (1, "error: Python was not found: python3 cannot be run\n")


# colab_url.py


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a new repository that contains the script, on branch `side/way`, without a remote."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "colab_url.py").write_bytes((SCRIPTS / "colab_url.py").read_bytes())
    git(tmp_path, "init", "--quiet", "--initial-branch", "side/way")
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    subprocess.run(["git", *arguments], cwd=folder, check=True, env=environment)


def colab_url(checkout: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Run the script in another folder; return exit code, standard output and standard error."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | variables
    script = [sys.executable, str(checkout / "scripts" / "colab_url.py")]
    done = subprocess.run([*script, *arguments], cwd="/", env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/some-one/my.gpt",
        "https://github.com/some-one/my.gpt.git",
        "https://name:token@github.com/some-one/my.gpt.git/",
        "git@github.com:some-one/my.gpt.git",
        "ssh://git@github.com/some-one/my.gpt.git",
        "ssh://git@github.com:22/some-one/my.gpt",
    ],
)
def test_the_address_has_the_remote_and_the_branch(checkout: Path, remote: str) -> None:
    git(checkout, "remote", "add", "origin", remote)
    assert colab_url(checkout) == (0, URL.format("some-one/my.gpt/blob/side/way"), "")


def test_the_address_has_the_named_repository_and_branch(checkout: Path) -> None:
    git(checkout, "remote", "add", "origin", "https://github.com/other/other")
    named = colab_url(checkout, "--repo", "owner/name", "--branch", "a#b c")
    assert named == (0, URL.format("owner/name/blob/a%23b%20c"), "")
    code, badge, _ = colab_url(
        checkout, "--repo", "owner/name", "--branch", "main", "--notebook", "microgpt", "--badge"
    )
    assert code == 0
    assert badge.endswith("](https://colab.research.google.com/github/owner/name/blob/main/notebooks/microgpt.ipynb)")
    nothing_on_path = colab_url(checkout, "--repo", "owner/name", "--branch", "main", PATH="")
    assert nothing_on_path == (0, URL.format("owner/name/blob/main"), "")


@pytest.mark.parametrize(
    ("remote", "arguments", "message"),
    [
        (None, [], "this checkout has no remote named origin: use --repo owner/name"),
        (
            "https://gitlab.com/some/one.git",
            [],
            "the remote origin is not a repository on GitHub: use --repo owner/name",
        ),
        ("https://github.com/only", [], "the remote origin is not a repository on GitHub: use --repo owner/name"),
        (None, ["--repo", "only"], "--repo only is not allowed: it must be owner/name of a repository on GitHub"),
        (None, ["--repo", "a/b/c"], "--repo a/b/c is not allowed: it must be owner/name of a repository on GitHub"),
    ],
)
def test_a_missing_part_of_the_address_is_one_sentence(
    checkout: Path, remote: str | None, arguments: list[str], message: str
) -> None:
    if remote:
        git(checkout, "remote", "add", "origin", remote)
    assert colab_url(checkout, *arguments) == (2, "", f"error: {message}")


def test_a_detached_checkout_needs_a_branch(checkout: Path) -> None:
    git(checkout, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "--quiet", "--allow-empty", "-m", "x")
    git(checkout, "checkout", "--quiet", "--detach")
    message = "error: no branch is checked out here: use --branch"
    assert colab_url(checkout, "--repo", "owner/name") == (2, "", message)
