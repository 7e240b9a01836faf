"""Lengths and directions against NumPy, and their gradients at the zero vector."""

import numpy as np
import tensorflow as tf

from op_util.vectors import directions, lengths


def test_lengths_and_directions():
    x = np.random.default_rng(0).normal(size=(2, 3, 5))
    norms = np.array([[[np.sqrt(sum(v**2 for v in row))] for row in rows] for rows in x])
    np.testing.assert_allclose(lengths(tf.constant(x)), norms, rtol=1e-14)
    np.testing.assert_allclose(directions(tf.constant(x)), x / norms, rtol=1e-14)


def test_gradient_equals_finite_differences_and_is_zero_at_zero():
    random = np.random.default_rng(1)
    x, upstream = random.normal(size=(2, 3, 4))
    x[1] = 0
    step = 1e-6 * random.normal(size=x.shape) * (np.arange(3) != 1)[:, None]
    for function in (lengths, directions):
        with tf.GradientTape() as tape:
            tape.watch(point := tf.constant(x))
            total = tf.reduce_sum(function(point) * upstream[:, : function(point).shape[-1]])
        gradient = tape.gradient(total, point).numpy()
        np.testing.assert_array_equal(gradient[1], 0)
        weights = upstream[:, : function(point).shape[-1]]
        ahead, behind = (np.sum(function(tf.constant(x + s)) * weights) for s in (step, -step))
        np.testing.assert_allclose(np.sum(gradient * step), (ahead - behind) / 2, rtol=1e-6)


def test_non_finite_values_are_not_hidden():
    assert np.isnan(lengths(tf.constant([[np.nan, 1.0]])))
