"""GradNorm's weights against the paper's definition."""

import numpy as np
import pytest
import tensorflow as tf

from op_util import gradnorm

NORMS = np.array([0.2, 3.0, 1.0, 40.0])
FIRST = np.array([2.0, 0.1, 1.4, 5.0])
LOSSES = np.array([1.0, 0.09, 0.2, 5.0])


def shortfall(weights, asymmetry):
    """Equation 2 of the paper: how far the tasks' norms are from their targets."""
    left = LOSSES / FIRST
    norms = weights * NORMS
    wanted = norms.mean() * (left / left.mean()) ** asymmetry
    return np.sum(np.abs(norms - wanted))


@pytest.mark.parametrize("asymmetry", [0.0, 1.0])
def test_the_papers_loss_vanishes_at_the_weights(asymmetry):
    found = gradnorm.weights(NORMS, LOSSES, FIRST, asymmetry).numpy().astype(float)
    np.testing.assert_allclose(found.sum(), 4, rtol=1e-6)
    assert shortfall(np.ones(4), asymmetry) > 40
    assert shortfall(found, asymmetry) < 1e-5


@pytest.mark.parametrize("asymmetry", [0.0, 1.0])
def test_the_papers_gradient_steps_converge_to_the_weights(asymmetry):
    """Algorithm 1: gradient steps on equation 2 with fixed targets, then rescaled weights."""
    left = LOSSES / FIRST
    weights = np.ones(4)
    for step in range(20000):
        norms = weights * NORMS
        wanted = norms.mean() * (left / left.mean()) ** asymmetry
        weights = weights - 3e-3 * 0.9995**step * np.sign(norms - wanted) * NORMS
        weights = np.maximum(weights, 1e-6)
        weights *= 4 / weights.sum()
    found = gradnorm.weights(NORMS, LOSSES, FIRST, asymmetry)
    np.testing.assert_allclose(found, weights, rtol=1e-2)


def test_slow_tasks_get_larger_gradients():
    """Two tasks' weighted norms have the ratio of their relative losses to the power alpha."""
    for asymmetry in (0.5, 1.5):
        weighted = gradnorm.weights(NORMS, LOSSES, FIRST, asymmetry).numpy() * NORMS
        left = LOSSES / FIRST
        np.testing.assert_allclose(
            weighted / weighted[0], (left / left[0]) ** asymmetry, rtol=1e-5
        )


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_task_without_a_gradient_gets_the_mean_weight(bad):
    norms = NORMS.copy()
    norms[1] = bad
    found = gradnorm.weights(norms, LOSSES, FIRST, 0.0).numpy()
    np.testing.assert_allclose(found.sum(), 4, rtol=1e-6)
    assert found[1] == 1
    weighted = np.delete(found * norms, 1)
    np.testing.assert_allclose(weighted, weighted[0], rtol=1e-6)
    np.testing.assert_array_equal(gradnorm.weights(0 * NORMS, LOSSES, FIRST, 1.0), 1)
    np.testing.assert_array_equal(gradnorm.weights(NORMS, 0 * LOSSES, FIRST, 1.0), 1)


def test_partial_steps_preserve_the_sum():
    old, new = tf.constant([1.0, 1.0, 2.0]), tf.constant([3.0, 0.5, 0.5])
    found = gradnorm.moved(old, new, 0.25)
    np.testing.assert_allclose(found, [1.5, 0.875, 1.625])
