"""Which kind of device a tensor's operations run on."""

import pytest
import tensorflow as tf

from op_util.devices import assume_device, device_of


def test_device_of_tensors():
    assert device_of(tf.ones([2])) == "CPU"
    seen = []

    def branch(x):
        seen.append(device_of(x))
        return x

    def function(x):
        branch(x)
        return tf.cond(tf.reduce_sum(x) > 0, lambda: branch(x), lambda: x)

    tf.function(function)(tf.ones([2]))
    tf.function(function, jit_compile=True)(tf.ones([2]))
    tf.function(function, jit_compile=True).get_concrete_function(tf.ones([2]))
    with tf.Graph().as_default():
        for placed in ("GPU:0", "CPU:0"):
            with tf.device(placed):
                branch(tf.ones([2]))
    assert seen == ["CPU"] * 2 + ["XLA"] * 4 + ["GPU", "CPU"]
    with assume_device("GPU"):
        assert device_of(tf.ones([2])) == "GPU"
    assert device_of(tf.ones([2])) == "CPU"


def test_unknown_device_is_refused():
    with pytest.raises(ValueError, match="'NPU'; expected one of CPU, GPU, XLA"), \
            assume_device("NPU"):
        pass
