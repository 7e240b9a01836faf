"""What all tests of grids need."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _found_by_processes(monkeypatch):
    """This repository, by the processes that are started."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
