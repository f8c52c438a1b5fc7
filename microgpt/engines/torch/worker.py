"""The entry points of torchrun processes: rank 0 runs the program, and the other ranks repeat the calls of its engine.

The other ranks receive models, examples and learning rates from rank 0. They need neither the configuration nor the
data, write no files and print nothing.
"""

import signal
from collections.abc import Callable

from microgpt.engines.torch.distributed import init_process_group
from microgpt.engines.torch.engine import TorchEngine

END = "end"  # broadcast instead of a method's name


def run_rank_zero(program: Callable[[], int]) -> int:
    """Run the program and return its exit code; the other ranks end at the same time.

    After a failure, the other ranks may be in the middle of a step and cannot receive a message; they end when this
    process has ended.
    """
    group = init_process_group()
    try:
        code = program()
    except BaseException:
        group.close(in_order=False)
        raise
    if code == 0:
        group.broadcast(END)
    group.close(in_order=code == 0)
    return code


def run_worker() -> int:
    """Repeat the calls of rank 0's engine until it ends; return the exit code.

    Signals are ignored, because rank 0 must write its checkpoint before the other ranks end. The exit code is 0 even if
    rank 0 has ended, so that torchrun reports the process that failed.
    """
    group = init_process_group()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    engine: TorchEngine | None = None
    method = ""
    try:
        while method != END:
            method, arguments = group.receive()
            if method == "make":
                engine = TorchEngine(*arguments, say=lambda line: None)
            elif method != END:
                getattr(engine, method)(*arguments)
    except ConnectionError:
        pass
    finally:
        group.close(in_order=method == END)
    return 0
