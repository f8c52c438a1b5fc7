"""task=benchmark: measures the speed of the engines on this machine and prints one JSON document on standard output.

The first keys of the document are those of the earlier systems' benchmarks; `engines` and `machine` are additions.
Progress is printed on standard error.
"""

import json
import platform
import sys
from dataclasses import asdict
from typing import Any

from microgpt import __version__
from microgpt.benchmarks.micro import Repeats, language_rows
from microgpt.config.schema import Config
from microgpt.runs.environment import environment, load_average
from microgpt.runs.invocation import Invocation
from microgpt.runs.record import timestamp


def benchmark(config: Config, invocation: Invocation) -> None:
    from microgpt.benchmarks.engines import EngineBenchmark

    repeats = Repeats(config.benchmark.repeats, config.benchmark.seconds)
    before = load_average()
    say("python: random numbers, Values")
    rows = language_rows(repeats)
    bench = EngineBenchmark(repeats, say)
    engines = [bench.report(name, config.benchmark.widths) for name in config.benchmark.engines]
    scalar = next((engine["benchmarks"] for engine in engines if engine["engine"] == "python"), None)
    document: dict[str, Any] = {
        "language": "Python",
        "version": platform.python_version(),
        "timestamp": timestamp(),
        "clock": "wall time; each figure is the median of its repeats, given with the smallest and the largest",
        "benchmarks": rows + (bench.micro_rows("python") if scalar is None else scalar),
        "engines": engines,
        "machine": {**asdict(environment()), "load_before": before, "load_after": load_average()},
        "microgpt": __version__,
    }
    print(json.dumps(document, indent=2))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
