"""Programs that simulate training, with the command lines and the output of the baselines."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from karpathy import benchmark as karpathy
from karpathy import machine, nanochat, ours

# FAKE is `<program>:<behaviour>,...`; a program that is not named succeeds.
BEHAVIOUR = """
import os, signal, subprocess, sys, time
def behaviour(program):
    return dict(p.split(":") for p in os.environ.get("FAKE", "").split(",") if p).get(program, "ok")
def misbehave(how):
    if how == "fail":
        print("Traceback (most recent call last):")
        sys.exit("RuntimeError: out of luck")
    if how == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print("child", child.pid, flush=True)
        time.sleep(60)
    if how == "stop":
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
    if how == "quiet":
        sys.exit(0)
"""
NANOGPT = (
    BEHAVIOUR
    + """
flags = dict(a[2:].split("=") for a in sys.argv[1:])
how = behaviour("nanogpt")
misbehave(how)
assert os.path.getsize("data/" + flags["dataset"] + "/train.bin") > 0
print("using fused AdamW:", flags["device"] == "cuda" and how != "cpu")
every, log = int(flags["eval_interval"]), int(flags["log_interval"])
for step in range(int(flags["max_iters"]) + 1):
    if step % every == 0:
        time.sleep(0.05)
        print(f"step {step}: train loss 3.0000, val loss {3 - step / 1000:.4f}")
    time.sleep(0.002)
    if step % log == 0:
        loss = "nan" if how == "nan" and step > 5 else "2.5000"
        print(f"iter {step}: loss {loss}, time 2.00ms, mfu -100.00%", flush=True)
"""
)
NANOCHAT = (
    BEHAVIOUR
    + """
flags = dict(a[2:].split("=") for a in sys.argv[1:])
how = behaviour("nanochat")
misbehave(how)
if flags["device-type"] == "cuda" and how != "cpu":
    print("GPU: simulated | Peak FLOPS (BF16): inf")
steps = int(flags["num-iterations"])
for step in range(steps + 1):
    if step % int(flags["eval-every"]) == 0 or step == steps:
        print(f"Step {step:05d} | Validation bpb: {4 - step / 100:.6f}")
    if step < steps:
        time.sleep(0.002)
        print(f"step {step:05d}/{steps:05d} (1.00%) | loss: 2.500000 | lrm: 1.00 | dt: 2.00ms", flush=True)
"""
)
NANOCHAT_DATA = (
    BEHAVIOUR
    + """
misbehave(behaviour("data"))
assert os.path.exists(sys.argv[1] + "/text.json")
"""
)
MICROGPT = (
    BEHAVIOUR
    + """
import random
random.seed(42)
n_embd = 16     # width
n_head = 4
n_layer = 1
block_size = 16
learning_rate, beta1, beta2, eps_adam = 0.01, 0.85, 0.99, 1e-8
num_steps = 1000 # how many
misbehave(behaviour("microgpt"))
assert open("input.txt").read().strip()
for step in range(num_steps):
    time.sleep(0.002)
    print(f"step {step+1:4d} / {num_steps:4d} | loss {3 - step / 1000:.4f}", end="\\r", flush=True)
for sample_idx in range(20):
    print("sample")
"""
)
OURS = (
    BEHAVIOUR
    + """
import json
from pathlib import Path
overrides = dict(a.split("=", 1) for a in sys.argv[1:])
misbehave(behaviour("ours_" + overrides.get("backend", "python")))
steps, every, batch = (int(overrides["train." + key]) for key in ("steps", "eval_every", "batch_size"))
assert Path(overrides["data.path"]).read_text()
run = Path(overrides["outputs_dir"], "2026-01-01", "run")
gpu = overrides.get("backend.device") == "cuda" and behaviour("ours_torch") != "cpu"
lines = []
for step in range(0, steps + 1):
    line = {"step": step}
    if step:
        line["loss"] = 3 - (step - 1) / 1000
    if step % every == 0:
        line["val_loss"] = 3 - step / 1000
        folder = run / "checkpoint" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        state = {"train_seconds": 0.01 * step, "tokens": 7 * batch * step}
        (folder / "train_state.json").write_text(json.dumps(state))
    lines.append(json.dumps(line))
(run / "history.jsonl").write_text("\\n".join(lines))
record = {"status": "completed", "error": None, "backend": overrides.get("backend", "python"), "using_gpu": gpu,
          "device": "cuda" if gpu else "cpu", "dtype": overrides["backend.dtype"], "kernel": "simulated", "threads": 1,
          "model": {"parameter_count": 1}, "timings": {"compile": 0.0}}
(run / "run.json").write_text(json.dumps(record))
"""
)
GPU = [{"name": "Simulated GPU", "memory_mib": "1", "driver": "1"}]


@dataclass
class Stage:
    """A folder with simulated programs; `stage(...)` runs the benchmark there (10 steps); returns its exit code."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    out: str = ""
    err: str = ""

    def __call__(self, *arguments: str, behave: str = "", repeats: int = 1, local: bool = True) -> int:
        self.monkeypatch.setenv("FAKE", behave)
        given = [*arguments, "--steps", "10", "--repeats", str(repeats)]
        wanted = arguments[arguments.index("--baseline") + 1]
        for name, flag, path in (
            ("nanogpt", "--nanogpt-dir", "nanogpt"), ("nanochat", "--nanochat-dir", "nanochat"),
            ("microgpt", "--microgpt-file", "microgpt.py"),
        ):  # fmt: skip
            if local and wanted in (name, "all") and flag not in arguments:
                given += [flag, str(self.folder / path)]
        code = karpathy.main(given)
        self.out, self.err = self.capsys.readouterr()
        return code

    def report(self) -> dict[str, Any]:
        (file,) = (self.folder / "here" / "results").glob("benchmark_karpathy_*.json")
        return json.loads(file.read_bytes())

    def runs(self, label: str) -> list[dict[str, Any]]:
        runs = [run for comparison in self.report()["comparisons"] for run in comparison["runs"]]
        return [run for run in runs if run["contestant"] == label]

    def markdown(self) -> str:
        (file,) = (self.folder / "here" / "results").glob("benchmark_karpathy_*.md")
        return file.read_text()


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def make_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stage:
    write(tmp_path / "nanogpt" / "train.py", NANOGPT)
    write(tmp_path / "nanochat" / "scripts" / "base_train.py", NANOCHAT)
    write(tmp_path / "microgpt.py", MICROGPT)
    monkeypatch.setattr(nanochat, "DATA_SCRIPT", write(tmp_path / "data.py", NANOCHAT_DATA))
    monkeypatch.setattr(ours, "PROGRAM", (sys.executable, str(write(tmp_path / "ours.py", OURS))))
    monkeypatch.setattr(karpathy, "PACKAGES", {"microgpt": {}, "nanogpt": {}, "nanochat": {}})
    monkeypatch.setattr(machine, "visible_gpus", list)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Stage(tmp_path, monkeypatch, capsys)


def see_gpu(stage: Stage, usable: bool) -> None:
    stage.monkeypatch.setattr(machine, "visible_gpus", lambda: GPU)
    stage.monkeypatch.setattr(machine, "gpu_memory_in_use", lambda: 1 << 30)
    stage.monkeypatch.setattr(machine, "sees_cuda", lambda: usable)
