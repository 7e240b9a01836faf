import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

from experiment.run import devices
from registry import UserError
from tests.warm_python import warm_python


def test_determinism_ends_with_the_training_that_asked_for_it():
    with devices.callers_settings():
        devices.prepare(0, deterministic=True)
        assert config.is_op_determinism_enabled()
    assert not config.is_op_determinism_enabled()


def test_prepare_seeds_everything_and_sets_the_policy():
    drawn = []
    for _ in range(2):
        devices.prepare(7, mixed_precision=True)
        drawn.append((np.random.rand(), keras.random.normal((2,)).numpy().tolist()))
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    devices.prepare(7)
    assert keras.config.dtype_policy().name == "float32"
    assert drawn[0] == drawn[1]
    with pytest.raises(UserError, match="out of range"):
        devices.prepare(-1)


def test_who_trains_from_python_keeps_the_precision_of_their_own_models():
    with devices.callers_settings():
        devices.prepare(7, mixed_precision=True)
    assert keras.config.dtype_policy().name == "float32"


def test_strategy_on_one_device():
    assert devices.strategy("auto") is tf.distribute.get_strategy()
    assert devices.strategy("none") is tf.distribute.get_strategy()
    assert devices.replicas(devices.strategy("mirrored")) == 1
    with pytest.raises(UserError, match="mirored"):
        devices.strategy("mirored")


DETERMINISTIC = """
import warnings, tensorflow as tf
from experiment.run import devices
warnings.simplefilter("error")
devices.prepare(3, deterministic=True)
assert float(tf.reduce_sum(tf.ones(3))) == 3
assert tf.config.threading.get_inter_op_parallelism_threads() == 1
devices.prepare(4, deterministic=True)
"""
TOO_LATE = """
import warnings, tensorflow as tf
from experiment.run import devices
tf.ones(3)
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    devices.prepare(3, deterministic=True)
assert "TF_NUM_INTEROP_THREADS=1" in str(found[-1].message), found
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [DETERMINISTIC, TOO_LATE])
def test_deterministic_runs_one_operation_at_a_time(program):
    """In a process of its own: TensorFlow fixes its threads when it first computes something."""
    environment = {name: value for name, value in os.environ.items() if "INTEROP" not in name}
    subprocess.run(
        [warm_python(), "-c", program], check=True, env=environment, cwd=Path(__file__).parents[3]
    )
