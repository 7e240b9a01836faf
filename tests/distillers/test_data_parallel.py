"""Several devices train the same student as one: two and four virtual CPUs, a process each."""

import functools
from pathlib import Path

import numpy as np
import pytest

from distillers.registration import METHODS
from tests.virtual_devices import compared

SCRIPT = Path(__file__).with_name("data_parallel.py")
ON_FOUR = ("None", "FSP", "SSKD_SVD", "couples samples")
ON_TWO = (
    "SSKD_SVD without a main loss", "CRD with drawn negatives", "layers of its own",
    "mixed images", "products as filter gradients",
    *(name for name in METHODS.names() if name not in (*ON_FOUR, "CO")),
)
SHARES = 2  # of the methods, each a process
PROCESSES = {
    name: (replicas, names)
    for replicas, names in [(4, ON_FOUR), *((2, ON_TWO[i::SHARES]) for i in range(SHARES))]
    for name in names
}


@functools.cache
def figures_of(replicas, names):
    """By name, of one process for several methods: each has to import TensorFlow first."""
    return compared(SCRIPT, replicas, names)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_same_student_as_on_one_device(name):
    """After 12 steps in each stage, of batches of 8, 5 and 1 images, with unlabelled images among
    them, batch normalisation, and for SSKD_SVD an image that the teacher answers with NaN."""
    figures = figures_of(*PROCESSES[name])[name]
    assert figures["finite"]
    assert figures["moved"] > 0.02  # it did train
    assert figures["weights"] <= 1e-5
    for metric, (alone, shared) in figures["logs"].items():
        if "weighted_" in metric:  # as exact as what the weight multiplies
            unweighted = figures["logs"][metric.replace("weighted_", "")][0]
            scale = max(alone / max(unweighted, 1e-12), 1)
        else:
            scale = 1
        np.testing.assert_allclose(shared, alone, rtol=2e-5, atol=1e-6 * scale, err_msg=metric)
    if "SSKD_SVD" in name:
        dropped = figures["logs"]["train: dropped_share"][0]
        np.testing.assert_allclose(dropped, 2 / 38, rtol=1e-5)
