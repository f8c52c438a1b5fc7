"""The parts of a check, in the order in which they run; the last part gets the remaining time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    title: str
    limit: int  # seconds
    columns: list[str]  # of its table
    module: str  # in gpu_check, imported in the process of the part
    function: str  # adds rows to its argument, a `Check`; raises MicrogptError if a check fails


PARTS = {
    "doctor": Part("Doctor", 90, ["check", "result", "found"], "checks", "doctor"),
    "compliance": Part(
        "Compliance suite on this device", 90, ["tests", "passed", "failed", "skipped", "seconds"],
        "checks", "compliance",
    ),
    "replicas": Part(
        "Many small models side by side", 120,
        ["R", "kernel", "ms a step", "us a model's step", "names a second", "prepared in s", "MiB"],
        "replicas", "measure",
    ),
    "profile": Part(
        "Where the time of a step goes", 40, ["R", "kernel", "kernels a step", "busy", "longest, us a step"],
        "replicas", "profile",
    ),
    "sampling": Part(
        "Sampling one text", 20, ["model", "program", "dtype", "tokens a second", "MiB"], "beside_nanogpt", "sample"
    ),
    "nanogpt": Part(
        "Training beside nanoGPT", 480,
        [
            "model", "program", "dtype", "kernel", "ms a step", "tokens a second", "times nanoGPT", "prepared in s",
            "MiB",
        ],
        "beside_nanogpt", "measure",
    ),
}  # fmt: skip
