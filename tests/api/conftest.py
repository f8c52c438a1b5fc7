"""A small run that is shared by several tests."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import microgpt

SMALL = {
    "mode": "tensor", "backend": "native", "style": "classic", "train.steps": 30, "train.log_every": 10,
    "train.eval_every": 10, "train.eval_documents": 20, "sample.num_samples": 3,
}  # fmt: skip


@contextlib.contextmanager
def quietly(folder: Path) -> Iterator[io.StringIO]:
    """Run the block in a folder. The object that the block receives contains the printed output."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            yield printed
    finally:
        os.chdir(before)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> microgpt.Run:
    folder = tmp_path_factory.mktemp("api")
    with quietly(folder):
        return microgpt.train(SMALL)
