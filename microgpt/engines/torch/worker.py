"""The processes of a torchrun beyond the first: they own no run, read and write no file, print nothing, and obey.

The first process is the program as always; whatever its engine does that all must do, it tells the others. They hear
models, examples and learning rates from it, so that they need neither configuration nor data, and whatever state the
first one trains on from is theirs.
"""

import signal
from collections.abc import Callable

from microgpt.engines.torch.distributed import join
from microgpt.engines.torch.engine import TorchEngine

END = "end"


def lead(run: Callable[[], int]) -> int:
    """Run the program in the first process; returns its exit code. The others end with it.

    After a failure they may be in the middle of a step, and hear nothing: they end when they find this process gone.
    """
    company = join()
    try:
        code = run()
    except BaseException:
        company.leave(in_order=False)
        raise
    if code == 0:
        company.tell(END)
    company.leave(in_order=code == 0)
    return code


def follow() -> int:
    """Do what the first process says until it ends, well or not; returns the exit code.

    Signals are the first one's to answer: it must be able to write its checkpoint before the others end. The exit code
    is 0 also where it is gone, so that torchrun names the process that failed.
    """
    company = join()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    engine: TorchEngine | None = None
    order = ""
    try:
        while order != END:
            order, arguments = company.hear()
            if order == "make":
                engine = TorchEngine(*arguments, say=lambda line: None)
            elif order != END:
                getattr(engine, order)(*arguments)
    except ConnectionError:
        pass
    finally:
        company.leave(in_order=order == END)
    return 0
