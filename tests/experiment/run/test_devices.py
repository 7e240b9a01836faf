import keras
import numpy as np
import pytest
import tensorflow as tf

from experiment.run import devices
from registry import UserError


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
    with devices.callers_precision():
        devices.prepare(7, mixed_precision=True)
    assert keras.config.dtype_policy().name == "float32"


def test_strategy_on_one_device():
    assert devices.strategy("auto") is tf.distribute.get_strategy()
    assert devices.strategy("none") is tf.distribute.get_strategy()
    assert devices.replicas(devices.strategy("mirrored")) == 1
    with pytest.raises(UserError, match="mirored"):
        devices.strategy("mirored")
