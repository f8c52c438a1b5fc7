"""The cases of benchmark_native.py, and the goals for their ratios."""

from dataclasses import dataclass

TIME, SPEED = "us_per_name", "tokens_per_second"
UNITS = {TIME: "microseconds a name", SPEED: "tokens a second"}
FORMS = {TIME: ".3f", SPEED: ",.0f"}


@dataclass(frozen=True)
class Shape:
    n_embd: int
    n_layer: int
    n_head: int
    block_size: int
    batch_size: int

    @property
    def tokens(self) -> int:
        return self.batch_size * self.block_size


@dataclass(frozen=True)
class Case:
    about: str
    n_embd: int = 16
    batch_size: int = 16
    replicas: int = 1
    threads: tuple[int, ...] = (1,)  # if several, microgpt is compared with itself
    models: tuple[str, ...] = ("",)  # overrides that select a model; if several, they are compared with the first
    slots: int | None = None  # for sampling: texts generated at once
    wide: Shape | None = None  # a wide model instead of a model of names
    goal: float | None = None  # for the ratio ours/peer of every peer, or for the speed-up

    @property
    def figure(self) -> str:
        return SPEED if self.slots or self.wide else TIME

    @property
    def is_least(self) -> bool:
        """Whether the ratio must be at least the goal, and not at most."""
        return self.goal is not None and self.goal >= 1


PRESETS = ("model=gpt", "model=gpt2", "model=llama model.mlp_width=43", "model=nanochat")  # of nearly equal parameters
D128, D256, D384 = Shape(128, 4, 4, 64, 12), Shape(256, 4, 4, 128, 8), Shape(384, 6, 6, 256, 4)
CASES = {
    "d16_b16": Case("n_embd 16, batch 16, one model", goal=0.30),
    "d16_b1": Case("n_embd 16, batch 1, one model", batch_size=1, goal=0.48),
    "d64_b16": Case("n_embd 64, batch 16, one model", n_embd=64, goal=0.40),
    "d64_b1": Case("n_embd 64, batch 1, one model", n_embd=64, batch_size=1, goal=0.65),
    "seeds16": Case(
        "16 seeds in one engine, n_embd 16, batch 1; a name and model", batch_size=1, replicas=16, goal=0.45
    ),
    "seeds64": Case(
        "64 seeds in one engine, n_embd 16, batch 1; a name and model", batch_size=1, replicas=64, goal=0.45
    ),
    "two_cores": Case("as seeds64, wall time, one thread and two", batch_size=1, replicas=64, threads=(1, 2)),
    "presets_b16": Case("models of 16/4/1/16, batch 16", models=PRESETS),
    "presets_b1": Case("models of 16/4/1/16, batch 1", batch_size=1, models=PRESETS),
    "sample_many": Case("n_embd 16, temperature 0.5, 64 texts at once", slots=64),
    "sample_one": Case("n_embd 16, temperature 0.5, one text at a time", slots=1, goal=1.25),
    "d128": Case("128 / 4 layers / block 64 / batch 12", wide=D128, goal=1.6),
    "d256": Case("256 / 4 layers / block 128 / batch 8", wide=D256, goal=1.15),
    "d384": Case("384 / 6 layers / block 256 / batch 4", wide=D384, goal=1.0),
    "d128_cores": Case("as d128, wall time, one thread and two", wide=D128, threads=(1, 2), goal=1.8),
    "d256_cores": Case("as d256, wall time, one thread and two", wide=D256, threads=(1, 2), goal=1.8),
}
