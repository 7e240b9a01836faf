"""Crop and resize several parts of each image, with operations that XLA can compile."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def crops(images: tf.Tensor, boxes: tf.Tensor, size: Sequence[int]) -> tf.Tensor:
    """Crop rectangles from images and resize them to one size (bilinear).

    Args:
        images: float32 ``[B, H, W, C]`` with static H, W, C.
        boxes: float32 ``[B, V, 4]``, for V parts of each image the (top, left, bottom, right)
            pixels, 0 to H - 1 and 0 to W - 1, fractions allowed. The corners of the result show
            these pixels; with right < left the result is mirrored.
        size: (height, width) of the result.

    Returns:
        float32 ``[B, V, height, width, C]``.
    """
    height, width, channels = images.shape[1:]
    count = boxes.shape[1]
    rows = _places(boxes[..., 0], boxes[..., 2], size[0])
    columns = _places(boxes[..., 1], boxes[..., 3], size[1])
    flat = tf.reshape(rows, [-1, count * size[0]])
    bands = tf.reshape(_sampled(images, flat, 1, height), [-1, count, size[0], width, channels])
    return _sampled(bands, columns, 2, width)


def _places(first: tf.Tensor, last: tf.Tensor, number: int) -> tf.Tensor:
    """`number` evenly spaced positions from `first` to `last`, ``[..., number]``."""
    if number == 1:
        return ((first + last) / 2)[..., None]
    step = (last - first) / (number - 1)  # exactly 1 if the part keeps its size
    return first[..., None] + tf.range(number, dtype=first.dtype) * step[..., None]


def _sampled(maps: tf.Tensor, places: tf.Tensor, batch_dims: int, side: int) -> tf.Tensor:
    """Sample `maps` at `places` along their rows or columns, with linear interpolation.

    Rows (batch_dims 1): ``[B, H, W, C]`` at ``[B, n]``. Columns (batch_dims 2): ``[B, V, h, W, C]``
    at ``[B, V, n]``.
    """
    axis = 1 if batch_dims == 1 else 3
    low = tf.clip_by_value(tf.floor(places), 0, side - 1)
    share = places - low
    lower = tf.cast(low, tf.int32)
    upper = tf.minimum(lower + 1, side - 1)
    near, far = (
        tf.gather(maps, index, axis=axis, batch_dims=batch_dims) for index in (lower, upper)
    )
    # Insert axes that broadcast: `places` must line up with the sampled axis.
    share = share[..., None, None] if batch_dims == 1 else share[:, :, None, :, None]
    return near + share * (far - near)
