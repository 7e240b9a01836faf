"""Set before any test imports TensorFlow, and inherited by the processes that tests start."""

import os
import sys
from collections import Counter

import pytest

# Errors only.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# Sums of gradients in the same order each time (see `experiment.run.devices`).
os.environ["TF_NUM_INTEROP_THREADS"] = "1"
# Tests run side by side and compute little: they would wait for each other's threads.
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
# The numbers that tests compare with are those of a CPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_addoption(parser):
    parser.addoption(
        "--several_workers", action="store_true",
        help="also the tests that start several training processes for each case, for minutes",
    )


def pytest_collection_modifyitems(config, items):
    """Files of many slow tests begin first: no worker is to be left alone with one of them."""
    if not config.getoption("--several_workers"):
        chosen = [item for item in items if not item.get_closest_marker("several_workers")]
        left = [item for item in items if item not in chosen]
        config.hook.pytest_deselected(items=left)
        items[:] = chosen
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True)
def _float32_for_the_next_test():
    """A training sets the precision of its whole process."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].config.set_dtype_policy("float32")


@pytest.fixture(scope="session", autouse=True)
def _no_thread_to_wait_for():
    """Also where Keras or a test makes a data set (see `untuned`), the end of which can be long
    after, when Python collects its garbage."""
    from tensorflow.python.data.ops.iterator_ops import OwnedIterator

    from tests.datasets import untuned

    create = OwnedIterator._create_iterator
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            OwnedIterator, "_create_iterator", lambda self, dataset: create(self, untuned(dataset))
        )
        yield


@pytest.fixture
def warm_children(monkeypatch):
    """Python processes that the tested code starts begin with TensorFlow loaded."""
    from tests.warm_python import warm_python

    monkeypatch.setattr(sys, "executable", warm_python())


@pytest.fixture
def eagerly():
    """Steps run eagerly, for tracing takes longer than a few steps do."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(params=["CPU", "GPU"])
def device(request):
    """The device that decompositions assume; what they do on a GPU is run on a CPU."""
    from op_util.devices import assume_device

    with assume_device(request.param):
        yield request.param


@pytest.fixture(params=["auto", "auto as on a GPU", "svd"])
def solver(request):
    """Each solver, and `auto` also as it works on a GPU."""
    from op_util.devices import assume_device

    name, *gpu = request.param.split(" as on a ")
    with assume_device(*(gpu or ["CPU"])):
        yield name
