"""`microgpt.train` and `microgpt.sweep`."""

from collections.abc import Iterable

from microgpt.api.documents import written_documents
from microgpt.api.model import Text
from microgpt.api.overrides import Overrides, overrides_of
from microgpt.api.run import Run, Runs


def train(*overrides: Overrides, documents: Iterable[Text] | None = None) -> Run:
    """Train a run like `python -m microgpt` with the same overrides, and return it.

    Overrides are strings as on the command line ("mode=tensor", "train.steps=1000") or mappings ({"optim.lr": 0.005}).
    `documents` are your own texts, each without line breaks, or conversations of a chat model; they are written to a
    file in outputs_dir/documents. Ctrl-C writes a checkpoint and raises KeyboardInterrupt; the same call then finishes
    the run. Raises UserError for a user error, before anything is written, and another MicrogptError (microgpt.errors)
    if the run fails.
    """
    from microgpt.api.program import train_run

    with written_documents(documents, overrides_of(overrides)) as given:
        return Run(train_run(given))


def sweep(*overrides: Overrides, documents: Iterable[Text] | None = None) -> Runs:
    """Train every combination of values, like `python -m microgpt -m`, and return the runs.

    A list, range, array or other sequence in a mapping contains the values of a key ({"seed": range(16), "optim.lr":
    [0.01, 0.005]}). Each value of a key that takes a list is a list ({"tags": [["a"], ["b"]]}). `documents` is the same
    as in `train`. Jobs that differ only in seed, learning rate, schedule or sampling train side by side. The same call
    finishes an interrupted sweep and keeps completed jobs. Failed jobs are in `Runs.not_completed`; if all jobs fail,
    the first error is raised.
    """
    from microgpt.api.program import train_sweep

    with written_documents(documents, overrides_of(overrides, swept=True)) as given:
        folder, errors = train_sweep(given)
    runs = Runs(folder)
    if errors and len(runs.not_completed) == len(runs):
        raise errors[0]
    return runs
