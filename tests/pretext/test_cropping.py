"""Crops against TensorFlow's own, which XLA does not compile."""

import numpy as np
import pytest
import tensorflow as tf

from pretext.cropping import crops


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (30, 20)])
def test_equal_to_crop_and_resize(size):
    random = np.random.default_rng(0)
    height, width = 12, 17
    x = random.random((3, height, width, 2)).astype(np.float32)
    boxes = (random.random((3, 4, 4)) * [height - 1, width - 1, height - 1, width - 1]).astype("f")
    found = crops(tf.constant(x), tf.constant(boxes), size)
    relative = (boxes / [height - 1, width - 1, height - 1, width - 1]).astype(np.float32)
    expected = tf.image.crop_and_resize(
        x, relative.reshape(-1, 4), np.repeat(np.arange(3), 4), size
    )
    np.testing.assert_allclose(found, tf.reshape(expected, [3, 4, *size, 2]), atol=2e-5)


def test_whole_pixels_are_exact_and_mirrored_boxes_mirror():
    x = np.random.default_rng(0).random((1, 9, 8, 3)).astype(np.float32)
    boxes = tf.constant([[[2.0, 1.0, 6.0, 7.0], [2.0, 7.0, 6.0, 1.0]]])
    straight, mirrored = crops(tf.constant(x), boxes, (5, 7))[0].numpy()
    np.testing.assert_array_equal(straight, x[0, 2:7, 1:8])
    np.testing.assert_array_equal(mirrored, x[0, 2:7, 7:0:-1])
