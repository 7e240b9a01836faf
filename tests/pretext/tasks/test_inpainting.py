"""Inpainting: one rectangle is hidden, and only it is judged."""

import numpy as np
import pytest
import tensorflow as tf

from registry import UserError
from tests.pretext.examples import Example, images, uniform


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 48, 3)])
def test_a_rectangle_is_hidden(shape):
    task = Example("inpainting", shape)
    x = images(400, shape) * 0.4
    draws = uniform(400, task)
    last = 1 - 2**-24
    draws[:4] = [[0, 0, 0, 0], [last, last, last, last], [0, 0, last, last], [last, last, 0, 0]]
    (view,), (image, hidden) = task.views(tf.constant(x), tf.constant(draws))
    view, hidden = view.numpy(), hidden.numpy()[..., 0].astype(bool)
    np.testing.assert_array_equal(image, x)
    np.testing.assert_array_equal(view[~hidden], x[~hidden])
    np.testing.assert_array_equal(view[hidden], 0.5)
    for each in hidden:
        rows, columns = np.flatnonzero(each.any(axis=1)), np.flatnonzero(each.any(axis=0))
        for places, side in zip((rows, columns), shape[:2], strict=True):
            assert np.all(np.diff(places) == 1)
            assert 0.3 * side < len(places) < 0.7 * side
        assert each.sum() == len(rows) * len(columns)
    assert np.all(hidden.any(axis=0))  # each place now and then, the corners too


def test_error_by_loop():
    task = Example("inpainting", (28, 28, 3))
    x = images(3, (28, 28, 3))
    _, target = task.views(tf.constant(x), tf.constant(uniform(3, task)))
    output = images(3, (28, 28, 3), seed=5)
    hidden = target[1].numpy()[..., 0]
    expected = [
        np.mean([(output[i, r, c] - x[i, r, c]) ** 2 for r, c in np.argwhere(hidden[i])])
        for i in range(3)
    ]
    np.testing.assert_allclose(task.score(tf.constant(output), target), expected, rtol=1e-5)
    np.testing.assert_allclose(task.loss(tf.constant(output), target), np.mean(expected), rtol=1e-5)
    elsewhere = output + 7 * (1 - hidden[..., None])
    np.testing.assert_allclose(task.score(tf.constant(elsewhere), target), expected, rtol=1e-5)


@pytest.mark.parametrize("wrong", [{"smallest": 0.0}, {"largest": 1.0}, {"smallest": 0.9}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Example("inpainting", (32, 32, 3), **wrong)
