"""Resize images."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from dataloader.memory import check_memory

CHUNK = 1000
"""How many images to resize at a time."""


def resized(images: tf.Tensor, size: tuple[int, int] | tf.Tensor) -> tf.Tensor:
    """Resize images bilinearly, with antialiasing and without keeping the aspect ratio.

    Args:
        images: [..,h,w,C] of any real dtype, in 0..255.
        size: (H, W).

    Returns:
        uint8 [..,H,W,C].
    """
    large = tf.image.resize(images, size, method="bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(large), 0, 255), tf.uint8)


def fitted(image: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """An image, uint8 [h,w,C], as uint8 of `shape` (H, W, C): `resized` unless it has this size."""
    same = tf.reduce_all(tf.shape(image)[:2] == shape[:2])
    return tf.ensure_shape(tf.cond(same, lambda: image, lambda: resized(image, shape[:2])), shape)


def resized_array(images: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """`resized` for an array [N,h,w,C], in chunks; its own size if `size` is None.

    uint8 images that already have this size are returned unchanged.

    Raises:
        UserError: there is not enough memory.
    """
    if images.dtype == np.uint8 and (size is None or images.shape[1:3] == tuple(size)):
        return images
    height, width = size = size or images.shape[1:3]
    check_memory(
        len(images) * height * width * images.shape[-1],
        f"{len(images)} images of {height}x{width}",
        "give a smaller --image_size",
    )
    result = np.empty([len(images), height, width, images.shape[-1]], np.uint8)
    with tf.device("CPU:0"):
        for start in range(0, len(images), CHUNK):
            result[start : start + CHUNK] = resized(images[start : start + CHUNK], size).numpy()
    return result
