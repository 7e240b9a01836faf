import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CODE = """
import os, signal, sys, time
from experiment.run import interruption
from experiment.run.interruption import Signals
interruption.COPY_SECONDS = float(sys.argv.pop(1))
with Signals() as signals:
    for name in sys.argv[1:]:
        os.kill(os.getpid(), getattr(signal, name))
        print("noted", signals.received, flush=True)
print("end")
"""


@pytest.mark.parametrize(
    ("names", "status", "noted"),
    [
        (["SIGINT"], 0, 1), (["SIGTERM"], 0, 1), (["SIGINT", "SIGINT"], 130, 1),
        (["SIGINT", "SIGTERM"], 143, 1), (["SIGTERM", "SIGINT"], 130, 1),
    ],
)
def test_the_first_signal_is_noted_and_the_second_ends_at_once(names, status, noted):
    done = subprocess.run(
        [sys.executable, "-c", CODE, "0", *names], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == status
    assert done.stdout.startswith(f"noted {getattr(signal, names[0]).value}\n")
    assert done.stdout.count("noted") == noted and ("end" in done.stdout) == (status == 0)
    assert done.stderr == (
        f"ended at once ({names[-1]}); rerun the same command (without --overwrite) to resume\n"
        if status else ""
    )


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 0), ("SIGINT", 130)])
def test_a_copy_that_comes_soon_is_no_second_signal(name, status):
    """As where a scheduler signals all processes of a grid, which passes it on to its runs; Ctrl-C
    pressed twice is meant."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, "60", name, name], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == status
    noted = f"noted {getattr(signal, name).value}\n"
    assert done.stdout == (noted if status else 2 * noted + "end\n")
