"""A pytest plugin that writes how each test ended as a line of a file, at once: also a killed run has results."""

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "GPU_CHECK_TESTS"  # names the file


def pytest_runtest_logreport(report: Any) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ or (report.passed and report.when != "call"):
        return  # the main process has the reports of all workers; a test passes when its call does
    crash = getattr(report.longrepr, "reprcrash", None)
    message = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(crash, "message", "")
    line = {"name": report.nodeid.rpartition("/")[2], "outcome": report.outcome, "message": message.partition("\n")[0]}
    with Path(os.environ[VARIABLE]).open("a") as file:
        file.write(f"{json.dumps(line)}\n")
