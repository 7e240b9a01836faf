"""Several devices pre-train the same encoder as one: virtual CPUs, a process each number."""

from pathlib import Path

import numpy as np
import pytest

from tests.virtual_devices import compared

SCRIPT = Path(__file__).with_name("data_parallel.py")
# These standardise embeddings over the batch, which amplifies rounding in batches of few images.
LOOSE = {"vicreg": 1e-4, "simsiam and barlow_twins": 1e-4}
CASES = {
    2: ("relational", "vicreg", "simsiam and barlow_twins", "one task an image"), 4: ("TTE",),
}


@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "names"), CASES.items())
def test_same_encoder_as_on_one_device(replicas, names):
    """After 12 steps, of batches of 7, 8 and 1 images, with batch normalisation; memory and average
    of weights included."""
    found = compared(SCRIPT, replicas, names)
    for name, figures in found.items():
        assert figures["moved"] > 0.05, name  # it did train
        tolerance = LOOSE.get(name, 5e-6)
        assert figures["encoder"] <= tolerance, (name, figures["encoder"])
        assert figures["weights"] <= tolerance, (name, figures["weights"])
        for metric, (alone, shared) in figures["logs"].items():
            np.testing.assert_allclose(
                shared, alone, rtol=max(1e-4, 20 * tolerance), atol=1e-4,
                err_msg=f"{name}: {metric}",
            )
