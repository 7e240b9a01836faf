"""Several devices pre-train the same encoder as one: virtual CPUs, a process each number."""

from pathlib import Path

import numpy as np
import pytest

from tests.virtual_devices import compared

SCRIPT = Path(__file__).with_name("data_parallel.py")
CASES = {2: ("relational", "barlow_twins", "vicreg", "simsiam"), 4: ("TTE",)}


@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "names"), CASES.items())
def test_same_encoder_as_on_one_device(replicas, names):
    """After 12 steps, of batches of 7, 8 and 1 images, with batch normalisation; memory and average
    of weights included."""
    found = compared(SCRIPT, replicas, names)
    for name, figures in found.items():
        assert figures["moved"] > 0.05, name  # it did train
        assert figures["encoder"] <= 5e-6, (name, figures["encoder"])
        assert figures["weights"] <= 5e-6, (name, figures["weights"])
        for metric, (alone, shared) in figures["logs"].items():
            np.testing.assert_allclose(
                shared, alone, rtol=1e-4, atol=1e-4, err_msg=f"{name}: {metric}"
            )
