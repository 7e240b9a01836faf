"""Luminance and chroma against Pillow's, which are those of JPEG."""

import numpy as np
import tensorflow as tf
from PIL import Image

from pretext import colour


def test_against_pillow():
    x = np.random.default_rng(0).integers(0, 256, size=(40, 50, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(x).convert("YCbCr"), dtype=float)
    values = tf.constant(x / 255, tf.float32)
    # Pillow cuts to whole numbers of 255, and its grey is at 128.
    np.testing.assert_allclose(colour.luminance(values)[..., 0] * 255, expected[..., 0], atol=1.01)
    np.testing.assert_allclose(colour.chroma(values) * 255 + 128, expected[..., 1:], atol=1.01)


def test_there_and_back():
    x = tf.constant(np.random.default_rng(0).random((4, 5, 3)))
    back = colour.to_images(colour.luminance(x), colour.chroma(x))
    np.testing.assert_allclose(back, x, rtol=1e-12)


def test_grey_has_no_chroma():
    x = np.repeat(np.linspace(0, 1, 11)[:, None], 3, axis=1)
    np.testing.assert_allclose(colour.chroma(tf.constant(x)), 0, atol=1e-15)
