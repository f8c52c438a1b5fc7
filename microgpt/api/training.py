"""`microgpt.train` and `microgpt.sweep`."""

from microgpt.api.overrides import Overrides, overrides_of
from microgpt.api.run import Run, Runs


def train(*overrides: Overrides) -> Run:
    """Train a run like `python -m microgpt` with the same overrides, and return it.

    Overrides are strings as on the command line ("mode=tensor", "train.steps=1000") or mappings ({"optim.lr": 0.005}).
    Ctrl-C writes a checkpoint and raises KeyboardInterrupt; the same call then finishes the run. Raises UserError for a
    user error, before anything is written, and another MicrogptError (microgpt.errors) if the run fails.
    """
    from microgpt.api.program import train_run

    return Run(train_run(overrides_of(overrides)))


def sweep(*overrides: Overrides) -> Runs:
    """Train every combination of values, like `python -m microgpt -m`, and return the runs.

    A list, tuple or range in a mapping contains the values of a key ({"seed": range(16), "optim.lr": [0.01, 0.005]}).
    Jobs that differ only in seed, learning rate, schedule or sampling train side by side. The same call finishes an
    interrupted sweep and keeps completed jobs. Failed jobs are in `Runs.not_completed`; if all jobs fail, the first
    error is raised.
    """
    from microgpt.api.program import train_sweep

    folder, errors = train_sweep(overrides_of(overrides, swept=True))
    runs = Runs(folder)
    if errors and len(runs.not_completed) == len(runs):
        raise errors[0]
    return runs
