"""Several devices train the same student as one: two and four virtual CPUs, a process each."""

import functools
import math
from pathlib import Path

import numpy as np
import pytest

import distillers
from distillers.registration import METHODS
from tests.distillers.data_parallel import RATES
from tests.distillers.models import built_loss
from tests.virtual_devices import compared

SCRIPT = Path(__file__).with_name("data_parallel.py")
ON_FOUR = ("FSP+couples samples+layers of its own",)
ALONE_ON_TWO = (
    "SSKD_SVD without a main loss", "CRD with drawn negatives", "mixed images",
    "products as filter gradients", "losses of layers",
)
ON_TWO = [name for name in METHODS.names() if METHODS.get(name).name == name != "FSP"]


@functools.cache
def figures(replicas):
    """What a process finds for all that is trained on so many devices, by the name of a method or
    a sum: each process has to import TensorFlow first."""
    return compared(SCRIPT, replicas, ON_FOUR if replicas == 4 else [*ALONE_ON_TWO, *sums(ON_TWO)])


def is_alone(name):
    """Whether a method cannot be in a sum, needs a learning rate of its own, is given an image that
    the others cannot bear, or has several stages, in each of which the others would be traced
    again."""
    method = distillers.get(name)
    learns_otherwise = method.trains_teacher or not method.needs_teacher
    built = built_loss(name)
    deploys, staged = built.deploy is not None, len(built.stages) > 1
    return learns_otherwise or name in RATES or deploys or staged or name == "SSKD_SVD"


def sums(names):
    """`names`, with those together that can be summed, up to five in each sum, as tracing a step
    takes most of the time."""
    alone = [name for name in names if is_alone(name)]
    summed = [name for name in names if name not in alone]
    count = math.ceil(len(summed) / 5)
    return [*alone, *("+".join(summed[first::count]) for first in range(count))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replicas", "name"),
    [*((4, name) for name in ON_FOUR), *((2, name) for name in (*ALONE_ON_TWO, *ON_TWO))],
)
def test_same_student_as_on_one_device(replicas, name):
    """After 12 steps in each stage, of batches of 8, 5 and 1 images, with unlabelled images among
    them, batch normalisation, and for SSKD_SVD an image that the teacher answers with NaN."""
    found = figures(replicas)
    trained = next(each for each in found if name == each or name in each.split("+"))
    check(found[trained])
    if trained != name:  # a sum logs each member's own loss
        assert any(metric.endswith(f": {name}_loss") for metric in found[trained]["logs"])
    if "SSKD_SVD" in name:
        dropped = found[trained]["logs"]["train: dropped_share"][0]
        np.testing.assert_allclose(dropped, 2 / 38, rtol=1e-5)


def check(found):
    assert found["finite"]
    assert found["moved"] > 0.02  # it did train
    assert found["weights"] <= 1e-5
    for metric, (alone, shared) in found["logs"].items():
        if "weighted_" in metric:  # as exact as what the weight multiplies
            unweighted = found["logs"][metric.replace("weighted_", "")][0]
            scale = max(alone / max(unweighted, 1e-12), 1)
        else:
            scale = 1
        np.testing.assert_allclose(shared, alone, rtol=2e-5, atol=1e-6 * scale, err_msg=metric)
