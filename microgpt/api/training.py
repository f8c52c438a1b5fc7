"""`microgpt.train` and `microgpt.sweep`."""

from microgpt.api.overrides import Overrides, overrides_of
from microgpt.api.run import Run, Runs


def train(*overrides: Overrides) -> Run:
    """Train a run, as `python -m microgpt` does with the same overrides, and return it.

    Overrides are those of the command line ("mode=tensor", "train.steps=1000") or mappings ({"optim.lr": 0.005}).
    Ctrl-C writes a checkpoint and raises KeyboardInterrupt; the same call then finishes the run. Raises UserError for a
    mistake before anything is written, and another MicrogptError (microgpt.errors) for a run that fails.
    """
    from microgpt.api.program import train_run

    return Run(train_run(overrides_of(overrides)))


def sweep(*overrides: Overrides) -> Runs:
    """Train every combination of values, as `python -m microgpt -m` does, and return the runs.

    A list, a tuple or a range in a mapping is the values of a key ({"seed": range(16), "optim.lr": [0.01, 0.005]}).
    Jobs that differ only in seed, learning rate, schedule or sampling train side by side. The same call finishes an
    interrupted sweep and keeps completed jobs. A job that fails is one of `Runs.not_completed`; raises the first error
    if all fail.
    """
    from microgpt.api.program import train_sweep

    folder, errors = train_sweep(overrides_of(overrides, swept=True))
    runs = Runs(folder)
    if errors and len(runs.not_completed) == len(runs):
        raise errors[0]
    return runs
