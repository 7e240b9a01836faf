"""The campaign in short, and that it would find what it looks for."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.fuzz.children import MOST_BYTES, Ended
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]
GOOD = Ended(2, "error: no such file\n", 1.0, 10**8)


@pytest.mark.parametrize(
    ("ended", "fault"),
    [
        (GOOD, ""),
        (Ended(0, "", 59.0, 10**9), ""),
        (Ended(0, "warning: one line\n", 1.0, 10**8), ""),
        (Ended(2, "Traceback (most recent call last):\nValueError: x\n", 1.0, 10**8), "traceback"),
        (Ended(1, "ValueError: x\n", 1.0, 10**8), "status 1"),
        (Ended(-11, "", 1.0, 10**8), "status -11"),
        (Ended(2, "error: a\nerror: b\n", 1.0, 10**8), "2 lines"),
        (Ended(2, "", 1.0, 10**8), "status 2 without"),
        (Ended(None, "", 61.0, 10**8), "61 s"),
        (Ended(0, "", 1.0, MOST_BYTES + 1), "memory of 2.0 GB"),
    ],
)
def test_what_is_a_fault(ended, fault):
    assert ended.fault().startswith(fault) and bool(ended.fault()) == bool(fault)


def campaign(*words):
    # TensorFlow must not have been used by the process that forks: not in this one.
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    command = [warm_python(), "-m", "tests.fuzz.campaign", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.mark.slow
def test_good_inputs_end_well():
    """Else the campaign would see refusals of another kind than it means."""
    done = campaign("--good", "--quick")
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) good inputs", done.stdout)[1]) == 29


@pytest.mark.slow
def test_bad_inputs_take_one_line():
    done = campaign("--cases", "30", "--seconds", "500", "--seed", "0", "--quick")
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) cases in", done.stdout)[1]) == 30
