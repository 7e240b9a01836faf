"""Lengths and unit vectors against NumPy, and their gradients at the zero vector."""

import numpy as np
import pytest
import tensorflow as tf

from op_util.vectors import centred_unit_vectors, lengths, unit_vectors, z_score


def test_lengths_and_unit_vectors():
    x = np.random.default_rng(0).normal(size=(2, 3, 5))
    norms = np.array([[[np.sqrt(sum(v**2 for v in row))] for row in rows] for rows in x])
    np.testing.assert_allclose(lengths(tf.constant(x)), norms, rtol=1e-14)
    np.testing.assert_allclose(unit_vectors(tf.constant(x)), x / norms, rtol=1e-14)


def test_gradient_equals_finite_differences_and_is_zero_at_zero():
    random = np.random.default_rng(1)
    x, upstream = random.normal(size=(2, 3, 4))
    x[1] = 0
    step = 1e-6 * random.normal(size=x.shape) * (np.arange(3) != 1)[:, None]
    for function in (lengths, unit_vectors):
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


@pytest.mark.parametrize("count", [3, 7, 100, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_constant_vector_has_no_direction_whatever_the_rounding(count, dtype):
    """A classifier that begins with zeros gives such probabilities."""
    logits = tf.Variable(tf.zeros([2, count], dtype))
    with tf.GradientTape() as tape:
        found = centred_unit_vectors(tf.nn.softmax(logits))
        total = tf.reduce_sum(found * tf.range(count, dtype=dtype))
    assert not np.any(found) and not np.any(tape.gradient(total, logits))


def test_centred_unit_vectors_are_numpys():
    x = np.random.default_rng(0).normal(5, 1, (4, 6)).astype(np.float32)
    centred = x.astype(np.float64) - x.mean(axis=1, keepdims=True, dtype=np.float64)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(centred_unit_vectors(tf.constant(x)), expected, atol=1e-5)


def test_z_scores_have_mean_0_and_variance_1_and_are_0_for_equal_logits():
    x = np.random.default_rng(0).normal(5, 3, (4, 6))
    x[2] = 1.5
    found = z_score(tf.constant(x)).numpy()
    assert not np.any(found[2])
    for row in (0, 1, 3):
        expected = (x[row] - x[row].mean()) / x[row].std(ddof=1)
        np.testing.assert_allclose(found[row], expected, rtol=1e-9)
