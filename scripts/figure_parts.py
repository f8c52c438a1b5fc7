"""The parts of docs/performance.md: a description of each, its commands, and its goals.

scripts/repeat_figures.py runs the commands. path/to/NAME in a command stands for a file or folder outside the project,
which --with NAME=... sets. Without --with, an option in OPTIONAL is left out, and any other command is skipped.
"""

from dataclasses import dataclass

from native_cases import CASES

OPTIONAL = ("--peer", "--earlier")


@dataclass(frozen=True)
class Goal:
    """A number in the output of a part, and its limit."""

    about: str
    pattern: str  # matched in the output; its group is the number; ^ and $ match at lines
    limit: float
    at_least: bool = False


@dataclass(frozen=True)
class Part:
    name: str
    title: str
    about: str  # what is compared, and where other programs come from
    commands: tuple[str, ...]
    goals: tuple[Goal, ...] = ()
    kept: str = ""  # pattern of the lines of the output that are kept; empty: all lines


def ratio(case: str, program: str, about: str = "") -> Goal:
    """Return the goal for the ratio that benchmark_native.py prints next to a program, by default a peer."""
    limit, is_least = CASES[case].goal, CASES[case].is_least
    assert limit is not None
    about = about or f"{case}: ours / {program}"
    pattern = rf"^{case}: .*\n(?:.+\n)*?.*?([\d.]+)  \([\d.]+-[\d.]+\) .*{program}"
    return Goal(f"{about}, {'at least' if is_least else 'at most'} {limit}", pattern, limit, is_least)


def serve_row(clients: int, column: int) -> str:
    """Return the pattern of a cell in the table of benchmark_serve.py, in the row of microgpt for one name."""
    return rf"^\| one name \| {clients} \| microgpt " + r"\| [^|]* " * (column - 4) + r"\| ([\d.]+) "


PEERS = """The other programs are public: eemicrogpt, realies/microgpt.c, talos, and enjector/microgpt-c, which cuts off
the gradient of keys and values and therefore does less work. Each was changed to print its time as a line of JSON."""
PARTS = (
    Part(
        "scalar",
        "The scalar engine",
        "CPU time of a training step of microgpt.py's model (n_embd 16, one name per step) in `mode=scalar` and in the "
        "published microgpt.py, which run alternately on one core.",
        ("python scripts/benchmark_scalar.py --reference path/to/microgpt.py --steps 60 --repeats 5",),
        (Goal("microgpt.py takes at least 20 times as long", r"^reference  .* ([\d.]+)   -?[\d.]+$", 20, True),),
    ),
    Part(
        "native",
        "The native engine",
        f"`backend=native` in float32 on one core; the programs run alternately, in separate processes. {PEERS}",
        (
            "python scripts/benchmark_native.py --rounds 7 --seconds 0.5 "
            '--peer d16_b16="path/to/eemicrogpt 10000" --peer d16_b1="path/to/realies 50000" '
            '--peer d64_b16="path/to/microgpt-c-64 1000" --peer d64_b1="path/to/realies-64 5000" '
            '--peer seeds16="path/to/realies 50000" '
            '--peer seeds64="path/to/realies 50000" --peer sample_one="path/to/talos 3000000"',
        ),
        (
            ratio("d16_b16", "eemicrogpt"),
            ratio("d16_b1", "realies"),
            ratio("seeds16", "realies"),
            ratio("seeds64", "realies"),
            ratio("d64_b16", "microgpt-c"),
            ratio("d64_b1", "realies"),
            ratio("sample_one", "talos"),
            ratio("d256", "torch"),
            ratio("d384", "torch"),
            ratio("d128_cores", "threads=2", "d128: two threads / one"),
            ratio("d256_cores", "threads=2", "d256: two threads / one"),
        ),
    ),
    Part(
        "engines",
        "Training and sampling with each engine",
        "`task=benchmark`: wall time with all cores of the machine. These are lines of its JSON output.",
        ("python -m microgpt task=benchmark benchmark.seconds=0.2 benchmark.engines=[native,torch]",),
        kept=r'^ *"(engine|threads|n_embd|batch_size|microseconds_per_name|how|tokens_per_sec)":',
    ),
    Part(
        "torch_replicas",
        "Replicas in the PyTorch engine",
        "One PyTorch engine with 64 replicas, compared with 64 engines with one replica each.",
        ("python scripts/benchmark_torch_replicas.py",),
    ),
    Part(
        "start",
        "Start",
        "Wall time of whole commands in an empty folder, and of compiling the native kernels for the first time.",
        ("python scripts/benchmark_startup.py",),
        (
            Goal("mode=tensor, one step: at most 0.9 s", r"^\| .*mode=tensor.*train\.steps=1` \| ([\d.]+)", 0.9),
            Goal("compiling for float32: at most 15 s", r"^\| float32 \| ([\d.]+)", 15),
        ),
    ),
    Part(
        "ablation",
        "A sweep: 256 runs of 1000 steps",
        "`experiment=ablation`, including the report, with this project's launcher and with Hydra's `basic` launcher; "
        "both write byte-identical histories.",
        ("python scripts/benchmark_sweep.py --seeds 64", "python scripts/benchmark_sweep.py --compose 1000"),
        (
            Goal("256 runs with the report: at most 6 s", r"launcher=vectorized +([\d.]+) s", 6),
            Goal("composition: at most 1 ms a job", r"^\d+ jobs: ([\d.]+) ms each", 1),
        ),
        r"jobs|launcher|ratio|on disk|same command",
    ),
    Part(
        "many_runs",
        "A sweep: 4096 runs of 100 steps",
        "Wall time of the whole command, and the size of the files: the runs in outputs, the tables in results.",
        ('python -m microgpt -m mode=tensor "seed=range(4096)" train.steps=100',),
        (
            Goal("at most 8 ms a run: 32.8 s", r"^wall time ([\d.]+) s", 32.8),
            Goal("at most 40 KB a run: 164 MB", r"^files written: ([\d.]+) MB in outputs", 164),
        ),
        r"^wall time|^files written",
    ),
    Part(
        "collect",
        "Reports",
        "Collecting synthetic runs of the four variants of an ablation, with tables, statistics, plots and page.",
        ("python scripts/benchmark_collect.py --runs 256", "python scripts/benchmark_collect.py --runs 10000"),
        (
            Goal("256 runs: at most 2 s", r"^256 runs in ([\d.]+) s", 2),
            Goal("10,000 runs: at most 10 s", r"^10000 runs in ([\d.]+) s", 10),
        ),
    ),
    Part(
        "memory",
        "Memory",
        "Resident memory in excess of the bare interpreter; each number is from a new process.",
        ("python scripts/benchmark_memory.py --models 256 --steps 100,2000 --large-steps 3",),
    ),
    Part(
        "chat",
        "The chat model",
        "`experiment=chat` (n_embd 128, 4 layers, block 256) for 60 of its 2400 steps. All steps should take at most "
        "five minutes on two cores, which is 8 steps per second.",
        ("python -m microgpt experiment=chat train.steps=60 schedule.warmup_steps=10",),
        (Goal("at least 8 steps a second", r"steps_per_sec=([\d.]+)", 8, True),),
        r"^mode=|^wall time",
    ),
    Part(
        "serve",
        "Serving",
        "`task=serve` with wrk on the same cores. The upper limit is a bare FastAPI route that checks the same body, "
        "with the same parser and event loop (httptools, uvloop) and with those of a plain uvicorn (h11, asyncio).",
        ("python scripts/benchmark_serve.py --seconds 2 --rounds 5 --earlier path/to/earlier",),
        (
            Goal(
                "one name, 64 clients: at least 0.7 of the bare route's requests a second", serve_row(64, 10), 0.7, True
            ),
            Goal("the same: at most 1 / 0.7 of its processor time", serve_row(64, 11), 1.43),
        ),
    ),
    Part(
        "page",
        "The exported page",
        "The page of `export.format=html` in headless Chromium: its size, and training steps and tokens per second.",
        ("python scripts/benchmark_page.py",),
    ),
    Part(
        "karpathy",
        "nanoGPT and nanochat",
        "Training with the same characters, shape, batch, precision and steps as Karpathy's programs, one thread each.",
        (
            "python scripts/benchmark_karpathy.py --baseline all --profile quick --threads 1 --install-deps "
            "--nanogpt-dir path/to/nanoGPT --nanochat-dir path/to/nanochat --microgpt-file path/to/microgpt.py",
        ),
    ),
)
