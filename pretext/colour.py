"""Luminance and chroma of images (ITU-R BT.601, full range)."""

from __future__ import annotations

import tensorflow as tf

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114


def luminance(images: tf.Tensor) -> tf.Tensor:
    """The luminance ``Y [..., 1]`` in 0..1 of ``images [..., 3]`` in 0..1."""
    return tf.tensordot(images, tf.constant([_RED, _GREEN, _BLUE], images.dtype), 1)[..., None]


def chroma(images: tf.Tensor) -> tf.Tensor:
    """The chroma ``(Cb, Cr) [..., 2]`` in -0.5..0.5 of ``images [..., 3]`` in 0..1; grey is 0."""
    bright = luminance(images)
    blue = (images[..., 2:3] - bright) / (2 * (1 - _BLUE))
    red = (images[..., 0:1] - bright) / (2 * (1 - _RED))
    return tf.concat([blue, red], axis=-1)


def to_images(bright: tf.Tensor, colour: tf.Tensor) -> tf.Tensor:
    """The images ``[..., 3]`` with a given luminance ``[..., 1]`` and chroma ``[..., 2]``.

    They are not clipped: impossible colours give values outside 0..1.
    """
    blue = bright + 2 * (1 - _BLUE) * colour[..., 0:1]
    red = bright + 2 * (1 - _RED) * colour[..., 1:2]
    green = (bright - _RED * red - _BLUE * blue) / _GREEN
    return tf.concat([red, green, blue], axis=-1)
