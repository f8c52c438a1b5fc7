"""The baseline microgpt.py: a plain script whose settings stand in its text.

A scratch copy gets the comparison's settings by substitution; each must match exactly once, or there is no comparison.
Nothing else of it is changed.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from karpathy.commands import Command, Finished
from karpathy.contest import Comparison, Contestant, Launch, Run
from karpathy.measures import Figures, found_by_step, times_between_evaluations
from karpathy.ours import Ours
from karpathy.texts import Text
from karpathy.workloads import Precision, Workload
from microgpt.errors import UserError

STEP = r"^step\s+(\d+) /\s*\d+ \| loss (\S+)"
FLOAT64 = Precision("float64")
BOTH = LABEL, LABEL_WITHOUT_COLLECTOR = "microgpt.py", "microgpt.py, gc.disable()"
WITHOUT_COLLECTOR = "import gc, runpy; gc.disable(); runpy.run_path('microgpt.py', run_name='__main__')"
AGREE = 6e-5  # losses are printed with four digits
DIFFERENCES = {
    "validation": "microgpt.py evaluates nothing: its validation losses are those of our float64 run, whose training "
    "loss agrees with the printed one at every step that both told",
    "float32": "microgpt.py computes in float64, this in float32",
    "collector": "Python's cycle collector is off",
}


def patched(source: str, workload: Workload) -> str:
    """The script with the workload's settings. Raises UserError, which names the line that is not as expected."""
    w = workload
    lines = {
        r"random\.seed\(\d+\)": f"random.seed({w.seed})",
        r"n_embd = \d+": f"n_embd = {w.n_embd}",
        r"n_head = \d+": f"n_head = {w.n_head}",
        r"n_layer = \d+": f"n_layer = {w.n_layer}",
        r"block_size = \d+": f"block_size = {w.block_size}",
        r"learning_rate, beta1, beta2, eps_adam = 0\.01, 0\.85, 0\.99, 1e-8": (
            f"learning_rate, beta1, beta2, eps_adam = {w.lr}, {w.beta1}, {w.beta2}, 1e-8"
        ),
        r"num_steps = \d+": f"num_steps = {w.steps}",
        r"for sample_idx in range\(\d+\)": "for sample_idx in range(0)",
    }
    for pattern, text in lines.items():
        source, count = re.subn(rf"^{pattern}", text, source, flags=re.MULTILINE)
        if count != 1:
            expected = pattern.replace("\\d+", "<number>").replace("\\", "")
            raise UserError(f"microgpt.py has {count} lines that begin with `{expected}` where one is expected")
    return source


def compare_microgpt(script: Path, source: dict[str, Any], text: Text, workload: Workload, scratch: Path) -> Comparison:
    """The script as it stands, and with Python's collector off, beside our engines."""

    def theirs(collector: bool) -> Contestant:
        def launch(changed: Workload, number: int) -> Launch:
            folder = scratch / f"theirs_{'gc' if collector else 'no_gc'}_{number}"

            def prepare() -> None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "microgpt.py").write_text(patched(script.read_text(), changed))
                (folder / "input.txt").write_text("\n".join(text.train) + "\n")

            arguments = [sys.executable, *(["microgpt.py"] if collector else ["-c", WITHOUT_COLLECTOR])]
            return Launch(Command(arguments, folder), lambda done: read_output(done, text, changed), prepare)

        label = LABEL if collector else LABEL_WITHOUT_COLLECTOR
        return Contestant(
            label, False, FLOAT64, "cpu", launch, differences=["validation"] + ["collector"] * (not collector)
        )

    ours = Ours(scratch / "ours", text, model=["model.tie_lm_head=false"], log_every=1)

    def prepare() -> None:
        patched(script.read_text(), workload)  # a script of another kind is told of before anything runs
        ours.prepare()

    float32 = Precision("float32")
    return Comparison(
        "microgpt",
        workload,
        source,
        [
            theirs(True),
            theirs(False),
            ours.contestant("python", FLOAT64, "cpu", LABEL, []),
            ours.contestant("native", FLOAT64, "cpu", LABEL, []),
            ours.contestant("native", float32, "cpu", LABEL, ["float32"]),
        ],
        DIFFERENCES,
        prepare,
    )


def read_output(done: Finished, text: Text, workload: Workload) -> Figures:
    targets = text.targets(workload.seed, workload.batch_size)
    # Lines count steps from 1; each step of it, and so its place among the evaluations, is one less.
    pattern = r"^step\s+(\d+) /"
    lines = [
        replace(line, text=re.sub(pattern, lambda m: f"step {int(m.group(1)) - 1} /", line.text)) for line in done.lines
    ]
    times = times_between_evaluations(
        lines, pattern, workload.interval, workload.steps, lambda step: int(targets[step % len(targets)])
    )
    return Figures(times.steps, times.seconds, times.tokens, losses=found_by_step(done.lines, STEP))


def take_validation(runs: list[Run]) -> str:
    """Give microgpt.py's runs the validation losses of ours that computed the same; returns what was found.

    The same is: at every step that both told, the same training loss to the digits that are printed.
    """
    ours = next(
        (r.figures for r in runs if r.figures and r.round > 0 and r.figures.facts.get("dtype") == "float64"), None
    )
    theirs = [r.figures for r in runs if r.figures and r.round > 0 and r.contestant in BOTH]
    if ours is None or not theirs:
        return "no float64 run of ours completed, so microgpt.py's validation loss is not known"
    apart, compared = 0.0, 0
    for figures in theirs:
        shared = figures.losses.keys() & ours.losses.keys()
        gap = max((abs(figures.losses[step] - ours.losses[step]) for step in shared), default=float("inf"))
        apart, compared = max(apart, gap), compared + len(shared)
        if gap <= AGREE:
            figures.val_losses = dict(ours.val_losses)
    if apart > AGREE:
        return f"training losses of microgpt.py and of our float64 run differ by up to {apart:.2g}: not the same work"
    return f"training losses of microgpt.py and of our float64 run agree to the four printed digits at {compared} steps"
