"""A machine with fake programs: PATH holds the few tools that the scripts need, and the programs of a test."""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
TOOLS = (
    "bash", "cat", "cp", "date", "dirname", "env", "find", "grep", "head", "mkdir", "mktemp", "mv", "rm", "rmdir",
    "sed", "sleep", "tail", "tr",
)  # fmt: skip
NETWORK = ("git", "pip", "pip3", "curl", "wget", "uv", "ssh")
SMI = 'echo "NVIDIA T4, 550.54, 15360 MiB"'
# Output of the probe on a working machine, by stage.
VERSION, VISIBLE = "python=3.11.9\ntorch=2.9.0\nbuild=cuda 12.8\n", "visible=1\ngpu=Tesla T4\n"
TRAINED = "probe_device=cuda:0\nprobe=ok\nprobe_says=20 training steps\n"


@dataclass(frozen=True)
class Machine:
    """`machine.program(name, body)` puts a shell script on PATH; `machine(script, ...)` runs one of scripts/ there."""

    folder: Path

    @property
    def here(self) -> Path:
        return self.folder / "here"

    def make(self) -> "Machine":
        (self.folder / "bin").mkdir()
        self.here.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, f"this machine has no {tool}"
            (self.folder / "bin" / tool).symlink_to(found)
        return self

    def program(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def recording(self, name: str, body: str = "") -> None:
        """Put a program on PATH that records each call as a line of `calls()`."""
        self.program(name, f'echo "{name} $*" >>"{self.folder / "calls"}"\n{body}')

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def no_network(self) -> None:
        for name in NETWORK:
            self.recording(name, f"echo '{name} was called' >&2; exit 97")

    def python(self, probe: str = VERSION + VISIBLE + TRAINED, status: int = 0, run: str = "", other: str = "") -> None:
        """Put a Python on PATH with this output and exit code of the probe, and this shell for microgpt's run."""
        (self.folder / "probe").write_text(probe)
        body = f"""
case "$*" in
  *gpu_probe.py*) cat "{self.folder / "probe"}"; exit {status} ;;
  "-m microgpt "*) {run or microgpt_run()} ;;
  *) {other or "exit 96"} ;;
esac"""
        self.recording("python", body)

    def real_python(self) -> None:
        self.program("python", f'exec "{sys.executable}" "$@"')

    def __call__(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.folder / "bin"), "HOME": str(self.folder), **variables}
        return subprocess.run(
            ["bash", str(SCRIPTS / script), *arguments],
            cwd=self.here,
            env={**environment, **{key: os.environ[key] for key in ("NUMBA_CACHE_DIR",) if key in os.environ}},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def microgpt_run(said: str = "true", recorded: str = "true", status: int = 0) -> str:
    """Return the shell code of a run that prints and records its device."""
    record = f"""mkdir -p outputs/x; echo '{{"using_gpu": {recorded}}}' >outputs/x/run.json;""" if recorded else ""
    return f"{record} echo 'mode=tensor using_gpu={said}'; echo 'the last error' >&2; exit {status}"


def wait_until_gone(pid: int) -> None:
    """Wait until a killed process is gone or a zombie."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is still there")
