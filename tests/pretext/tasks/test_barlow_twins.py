"""Barlow Twins' loss against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tests.pretext.examples import Example


@pytest.mark.parametrize("redundancy", [0.3, 0.0])
def test_the_loss_weighs_correlations_of_different_dimensions_as_set(redundancy):
    output = np.random.default_rng(0).normal(2, 3, size=(6, 2, 4))
    scaled = (output - output.mean(axis=0)) / np.sqrt(output.var(axis=0) + 1e-5)
    correlations = np.einsum("bi,bj->ij", scaled[:, 0], scaled[:, 1]) / len(output)
    diagonal = np.diag(correlations)
    others = np.sum(correlations**2) - np.sum(diagonal**2)
    expected = np.sum((1 - diagonal) ** 2) + redundancy * others
    task = Example("barlow_twins", (32, 32, 3), redundancy=redundancy)
    loss = task.loss(tf.constant(output, tf.float32), None)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_views_are_compared_in_as_many_dimensions_as_set():
    task = Example("barlow_twins", (32, 32, 3), projection=9)
    task.build((4, 4, 8), 16)
    assert task.predict(tf.zeros([3, 2, 16])).shape == (3, 2, 9)
