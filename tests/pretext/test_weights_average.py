"""The average of weights against a loop in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pretext.weights_average import WeightsAverage


def test_average_of_weights_by_loop():
    weights = [np.random.default_rng(n).normal(size=(2, 3)).astype(np.float32) for n in range(30)]
    variable = keras.Variable(weights[0])
    average = WeightsAverage([variable], decay=0.9)
    step = tf.function(average.update)
    expected = np.zeros((2, 3))
    for n, weight in enumerate(weights):
        variable.assign(weight)
        step()
        decay = min(0.9, n / (n + 1))
        expected = decay * expected + (1 - decay) * weight
        np.testing.assert_allclose(average.averages[0].numpy(), expected, rtol=1e-4, atol=1e-6)
        if n == 5:
            np.testing.assert_allclose(expected, np.mean(weights[:6], axis=0), rtol=1e-6)
    with average.applied():
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(variable.numpy(), weights[-1])


def test_own_weights_come_back_after_an_error_and_stay_before_the_first_step():
    variable = keras.Variable([1.0])
    average = WeightsAverage([variable])
    with average.applied():
        np.testing.assert_array_equal(variable.numpy(), [1])
    average.update()
    variable.assign([5.0])
    with pytest.raises(RuntimeError), average.applied():
        np.testing.assert_allclose(variable.numpy(), [1])
        raise RuntimeError
    np.testing.assert_array_equal(variable.numpy(), [5])


def test_the_average_does_not_own_what_it_averages():
    variable = keras.Variable([1.0], name="own")
    average = WeightsAverage([variable])
    assert not average.trainable_variables
    assert all(each is not variable for each in average.variables)
    assert len(average.variables) == 2
