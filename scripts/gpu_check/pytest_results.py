"""A pytest plugin that immediately writes the outcome of each test to a file, so that a killed run has results too."""

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "GPU_CHECK_TESTS"  # the path of the file


def pytest_runtest_logreport(report: Any) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ or (report.passed and report.when != "call"):
        return  # the main process receives the reports of all workers; a test passes if its call passes
    crash = getattr(report.longrepr, "reprcrash", None)
    message = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(crash, "message", "")
    line = {"name": report.nodeid.rpartition("/")[2], "outcome": report.outcome, "message": message.partition("\n")[0]}
    with Path(os.environ[VARIABLE]).open("a") as file:
        file.write(f"{json.dumps(line)}\n")
