"""The rank and world size of this process, from the environment that torchrun sets, and its available CPU cores."""

import os
from dataclasses import dataclass

KEYS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")  # where the processes connect


@dataclass(frozen=True)
class Process:
    """The rank of a process in its run, and its local rank on one machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    def launcher(self) -> list[str]:
        """Return the command that starts the program, without its arguments."""
        if self.world_size == 1:
            return ["python", "-m", "microgpt"]
        machines = self.world_size // self.local_world_size
        nodes = ["--nnodes", str(machines)] if machines > 1 else []
        return ["torchrun", *nodes, "--nproc-per-node", str(self.local_world_size), "-m", "microgpt"]


def this_process() -> Process:
    """Return the rank and world size of this process: rank 0 of 1 unless torchrun started it."""
    if any(key not in os.environ for key in (*KEYS, *ADDRESS)):  # other programs set only some of them
        return Process()
    return Process(*(int(os.environ[key]) for key in KEYS))


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
