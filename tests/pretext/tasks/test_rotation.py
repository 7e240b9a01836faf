"""Rotation against np.rot90."""

import numpy as np
import pytest
import tensorflow as tf

from registry import UserError
from tests.pretext.examples import Example, images, uniform


@pytest.mark.parametrize("shape", [(28, 28, 1), (33, 33, 3), (40, 32, 3), (32, 41, 3)])
def test_as_by_numpy(shape):
    task = Example("rotation", shape)
    x = images(40, shape)
    (view,), turns = task.views(tf.constant(x), tf.constant(uniform(40, task)))
    side = min(shape[:2])
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    for i in range(40):
        square = x[i, top : top + side, left : left + side]
        np.testing.assert_array_equal(view[i], np.rot90(square, turns[i]))
    assert set(turns.numpy()) == {0, 1, 2, 3}


def test_all_angles_are_as_frequent():
    task = Example("rotation", (4, 4, 1))
    draws = ((np.arange(400) + 0.5) / 400).astype(np.float32)[:, None]
    _, turns = task.views(tf.zeros([400, 4, 4, 1]), tf.constant(draws))
    np.testing.assert_array_equal(np.bincount(turns), [100] * 4)


def test_a_square_too_small_for_the_encoder_is_refused():
    with pytest.raises(UserError, match="24x40.*32x32"):
        Example("rotation", (24, 40, 3), minimum_size=32)
