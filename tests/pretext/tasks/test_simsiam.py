"""SimSiam's loss against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from tests.pretext.examples import Example


def negative_cosine(one, other):
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return -np.mean(np.sum(one * other, axis=1) / lengths)


@pytest.fixture
def output():
    """Predictions p and projections z of two views."""
    random = np.random.default_rng(0)
    return tuple(tf.constant(random.normal(1, 1, size=(5, 2, 7))) for _ in range(2))


def test_the_loss_is_one_and_half_of_each_views_distance_to_the_other(output):
    p, z = (part.numpy() for part in output)
    expected = (
        1 + negative_cosine(p[:, 0], z[:, 1]) / 2 + negative_cosine(p[:, 1], z[:, 0]) / 2
    )
    loss = Example("simsiam", (32, 32, 3)).loss(output, None)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_projections_get_no_gradient(output):
    with tf.GradientTape() as tape:
        tape.watch(output)
        loss = Example("simsiam", (32, 32, 3)).loss(output, None)
    predictions, projections = tape.gradient(loss, output)
    assert projections is None or not np.any(projections)
    assert np.any(predictions)


def test_the_predictor_has_the_hidden_width_as_set():
    task = Example("simsiam", (32, 32, 3), hidden=5)
    task.build((4, 4, 8), 16)
    shapes = [tuple(weight.shape) for weight in task.head.weights if len(weight.shape) == 2]
    assert shapes == [(16, 5), (5, 16)]
