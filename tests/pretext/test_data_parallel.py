"""Several devices pre-train the same encoder as one: virtual CPUs, a process each number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASES = {2: ("TTE", "relational"), 4: ("TTE",)}


@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "names"), CASES.items())
def test_same_encoder_as_on_one_device(replicas, names):
    """After 12 steps, of batches of 7, 8 and 1 images, with batch normalisation; memory and average
    of weights included."""
    command = [sys.executable, HERE / "data_parallel.py", str(replicas), *names]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sorted(found) == sorted(names)
    for name, figures in found.items():
        assert figures["moved"] > 0.05, name  # it did train
        assert figures["encoder"] <= 5e-6, (name, figures["encoder"])
        assert figures["weights"] <= 5e-6, (name, figures["weights"])
        for metric, (alone, shared) in figures["logs"].items():
            np.testing.assert_allclose(
                shared, alone, rtol=1e-4, atol=1e-4, err_msg=f"{name}: {metric}"
            )
