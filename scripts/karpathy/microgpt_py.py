"""The baseline microgpt.py: a script whose settings are constants in its source.

In a copy, the constants are replaced with the settings of the comparison; each must match exactly once. Nothing else is
changed.
"""

import re
import sys
from pathlib import Path

from karpathy.comparison import BaselineComparison, Contestant, Launch, Run
from karpathy.data import Text
from karpathy.measures import Figures, read_figures
from karpathy.ours import Ours
from karpathy.processes import Command, Finished
from karpathy.workloads import Precision, Setup
from microgpt.errors import UserError

STEP = r"^step\s+(\d+) /\s*\d+ \| loss (\S+)"
FLOAT64 = Precision("float64")
BOTH = LABEL, LABEL_WITHOUT_COLLECTOR = "microgpt.py", "microgpt.py, gc.disable()"
WITHOUT_COLLECTOR = "import gc, runpy; gc.disable(); runpy.run_path('microgpt.py', run_name='__main__')"
AGREE = 6e-5  # losses are printed with four digits
DIFFERENCES = {
    "validation": "microgpt.py has no evaluation: its validation losses are those of our float64 run, whose training "
    "loss agrees with the printed loss at every step that both report",
    "float32": "microgpt.py computes in float64, this run in float32",
    "collector": "Python's cycle collector is off",
}


def patched(source: str, setup: Setup) -> str:
    """Return the script with these settings. Raises UserError with the line that is not as expected."""
    s = setup
    lines = {
        r"random\.seed\(\d+\)": f"random.seed({s.seed})",
        r"n_embd = \d+": f"n_embd = {s.n_embd}",
        r"n_head = \d+": f"n_head = {s.n_head}",
        r"n_layer = \d+": f"n_layer = {s.n_layer}",
        r"block_size = \d+": f"block_size = {s.block_size}",
        r"learning_rate, beta1, beta2, eps_adam = 0\.01, 0\.85, 0\.99, 1e-8": (
            f"learning_rate, beta1, beta2, eps_adam = {s.lr}, {s.beta1}, {s.beta2}, 1e-8"
        ),
        r"num_steps = \d+": f"num_steps = {s.steps}",
        r"for sample_idx in range\(\d+\)": "for sample_idx in range(0)",
    }
    for pattern, text in lines.items():
        source, count = re.subn(rf"^{pattern}", text, source, flags=re.MULTILINE)
        if count != 1:
            expected = pattern.replace("\\d+", "<number>").replace("\\", "")
            raise UserError(f"microgpt.py has {count} lines that begin with `{expected}`, expected one")
    return source


def compare_microgpt(script: Path, text: Text, setup: Setup, scratch: Path) -> BaselineComparison:
    """Return the comparison of the script, with and without Python's cycle collector, and our engines."""

    def theirs(label: str, arguments: list[str], differences: list[str]) -> Contestant:
        def launch(changed: Setup, number: int) -> Launch:
            folder = scratch / f"theirs_{BOTH.index(label)}_{number}"

            def prepare() -> None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "microgpt.py").write_text(patched(script.read_text(), changed))
                (folder / "input.txt").write_text("\n".join(text.train) + "\n")

            command = Command([sys.executable, *arguments], folder)
            return Launch(command, lambda done: read_output(done, text, changed), prepare)

        return Contestant(label, FLOAT64, "cpu", launch, differences=differences)

    ours = Ours(scratch / "ours", text, model=["model.tie_lm_head=false"], log_every=1)

    def prepare() -> None:
        patched(script.read_text(), setup)  # an unexpected script fails before any run
        ours.prepare()

    contestants = [
        theirs(LABEL, ["microgpt.py"], ["validation"]),
        theirs(LABEL_WITHOUT_COLLECTOR, ["-c", WITHOUT_COLLECTOR], ["validation", "collector"]),
        ours.contestant("python", FLOAT64, "cpu", LABEL, []),
        ours.contestant("native", FLOAT64, "cpu", LABEL, []),
        ours.contestant("native", Precision("float32"), "cpu", LABEL, ["float32"]),
    ]
    return BaselineComparison("microgpt", setup, contestants, DIFFERENCES, prepare)


def read_output(done: Finished, text: Text, setup: Setup) -> Figures:
    targets = text.targets(setup.seed, setup.batch_size)
    return read_figures(done.lines, STEP, setup, lambda step: int(targets[step % len(targets)]), first=1)


def copy_validation(runs: list[Run]) -> str:
    """Copy the validation losses of our equivalent run to the runs of microgpt.py; return a sentence about it.

    Our run is equivalent if the training losses agree to the printed digits at every step that both report.
    """
    measured = [(run.contestant, run.figures) for run in runs if run.figures and run.round > 0]
    ours = next((figures for _, figures in measured if figures.facts.get("dtype") == "float64"), None)
    theirs = [figures for contestant, figures in measured if contestant in BOTH]
    if ours is None or not theirs:
        return "no float64 run of ours completed, so the validation loss of microgpt.py is not known"
    largest, compared = 0.0, 0
    for figures in theirs:
        shared = figures.losses.keys() & ours.losses.keys()
        gap = max((abs(figures.losses[step] - ours.losses[step]) for step in shared), default=float("inf"))
        largest, compared = max(largest, gap), compared + len(shared)
        if gap <= AGREE:
            figures.val_losses = dict(ours.val_losses)
    if largest > AGREE:
        return f"training losses of microgpt.py and of our float64 run differ by up to {largest:.2g}: not the same work"
    return f"training losses of microgpt.py and of our float64 run agree to the four printed digits at {compared} steps"
