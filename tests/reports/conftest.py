"""Fixtures for the tests of reports."""

from pathlib import Path

import pytest
from support.report_rows import Sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A sweep without runs."""
    return Sweep(tmp_path / "outputs")
