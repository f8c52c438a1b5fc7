"""How many processes work on this run, as torchrun tells each of them in its environment. Standard library alone.

The first one runs the program; the others lend it their processors (engines/torch/follower.py).
"""

import os
from dataclasses import dataclass

KEYS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")  # where the processes find each other


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many: of the whole run, and on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    def launcher(self) -> list[str]:
        """How the program is started, up to its name."""
        if self.count == 1:
            return ["python", "-m", "microgpt"]
        machines = self.count // self.local_count
        nodes = ["--nnodes", str(machines)] if machines > 1 else []
        return ["torchrun", *nodes, "--nproc-per-node", str(self.local_count), "-m", "microgpt"]


def processes() -> Processes:
    """Of this process; it is alone where nobody says otherwise."""
    if any(key not in os.environ for key in (*KEYS, *ADDRESS)):
        return Processes()
    return Processes(*(int(os.environ[key]) for key in KEYS))
