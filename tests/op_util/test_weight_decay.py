"""Weight decay: kernels with a gradient decay, nothing else changes."""

import keras
import numpy as np
import tensorflow as tf

from op_util.weight_decay import with_weight_decay


def _variable(name, values):
    return keras.Variable(np.array(values, np.float32), name=name)


def test_kernels_decay_and_biases_do_not():
    variables = [_variable("kernel", [1.0, -2.0]), _variable("bias", [3.0])]
    found = with_weight_decay([tf.constant([0.5, 0.5]), tf.constant([1.0])], variables, 0.1)
    np.testing.assert_allclose(found[0], [0.6, 0.3])
    np.testing.assert_allclose(found[1], [1.0])


def test_gradients_keep_their_dtype():
    kernel = _variable("kernel", [1.0])
    (found,) = with_weight_decay([tf.constant([1.0], tf.bfloat16)], [kernel], 0.5)
    assert found.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(found, tf.float32), [1.5])


def test_adam_leaves_a_kernel_that_no_loss_reaches_bit_for_bit():
    reached, other = _variable("kernel", [1.0, 2.0]), _variable("kernel", [0.031, -0.7])
    variables = [reached, other]
    before = other.numpy().tobytes()
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(variables)
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(reached.value ** 2)
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        optimizer.apply_gradients(
            (gradient, variable)
            for gradient, variable in zip(
                with_weight_decay(gradients, variables, 1e-4), variables, strict=True
            )
            if gradient is not None
        )
    assert other.numpy().tobytes() == before
    assert not np.array_equal(reached.numpy(), [1.0, 2.0])
