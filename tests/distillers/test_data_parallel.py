"""Several devices train the same student as one: two and four virtual CPUs, a process each."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distillers.registration import METHODS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ON_FOUR = ("None", "FSP", "SSKD_SVD", "couples samples")
ON_TWO = (
    "SSKD_SVD without a main loss", "layers of its own",
    *(name for name in METHODS.names() if name not in (*ON_FOUR, "CO")),
)
SHARES = 4  # of the methods, each a process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replicas", "names"), [(4, ON_FOUR), *((2, ON_TWO[i::SHARES]) for i in range(SHARES))]
)
def test_same_student_as_on_one_device(replicas, names):
    """After 12 steps in each stage, of batches of 8, 5 and 1 images, with unlabelled images among
    them, batch normalisation, and for SSKD_SVD an image that the teacher answers with NaN."""
    command = [sys.executable, HERE / "data_parallel.py", str(replicas), *names]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sorted(found) == sorted(names)
    for name, figures in found.items():
        assert figures["finite"], name
        assert figures["moved"] > 0.02, name  # it did train
        assert figures["weights"] <= 1e-5, (name, figures["weights"])
        for metric, (alone, shared) in figures["logs"].items():
            np.testing.assert_allclose(
                shared, alone, rtol=2e-5, atol=1e-6, err_msg=f"{name}: {metric}"
            )
        if "SSKD_SVD" in name:
            dropped = figures["logs"]["train: dropped_share"][0]
            np.testing.assert_allclose(dropped, 2 / 38, rtol=1e-5)
