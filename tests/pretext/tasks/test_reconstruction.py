"""Reconstruction: masking noise, and the error by hand."""

import numpy as np
import pytest
import tensorflow as tf

from registry import UserError
from tests.pretext.examples import Example, images, uniform


@pytest.mark.parametrize("masked", [0.0, 0.25, 0.6])
def test_a_share_of_the_pixels_is_zero_and_the_rest_is_the_image(masked):
    task = Example("reconstruction", (32, 28, 3), masked=masked)
    x = images(64, (32, 28, 3)) + 0.01
    (view,), target = task.views(tf.constant(x), tf.constant(uniform(64, task)))
    view = view.numpy()
    hidden = np.all(view == 0, axis=-1)
    np.testing.assert_array_equal(view[~hidden], x[~hidden])
    assert abs(hidden.mean() - masked) < 0.01
    np.testing.assert_array_equal(target, x)
    if masked:
        # Every pixel now and then, and in patterns that have nothing to do with each other.
        assert np.all(hidden.any(axis=0) & ~hidden.all(axis=0))
        patterns = hidden.reshape(64, -1).astype(float)
        correlations = np.corrcoef(patterns)[~np.eye(64, dtype=bool)]
        assert np.max(np.abs(correlations)) < 0.2


def test_error_by_hand():
    task = Example("reconstruction", (2, 2, 1))
    target = tf.constant([[[[0.0], [1.0]], [[0.5], [0.5]]], [[[1.0], [1.0]], [[1.0], [1.0]]]])
    output = tf.constant([[[[0.5], [1.0]], [[0.5], [0.0]]], [[[1.0], [1.0]], [[1.0], [3.0]]]])
    np.testing.assert_allclose(task.score(output, target), [0.125, 1.0])
    np.testing.assert_allclose(task.loss(output, target), 0.5625)


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="masked"):
        Example("reconstruction", (32, 32, 3), masked=1.0)
