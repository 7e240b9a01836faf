"""Augmentation of photographs: random resized crop and colour jitter."""

from __future__ import annotations

import math

import tensorflow as tf

CROP_DRAWS, JITTER_DRAWS = 4, 3
"""Random numbers an image takes: area, aspect ratio and place; brightness, contrast, saturation."""

ASPECT = 4 / 3
"""The largest stretch of a crop in one direction."""

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow


def as_pixels(values: tf.Tensor) -> tf.Tensor:
    """Values as uint8: rounded, and cut off at 0 and 255."""
    return tf.cast(tf.clip_by_value(tf.round(values), 0, 255), tf.uint8)


def crop_boxes(smallest: float, uniform: tf.Tensor) -> tf.Tensor:
    """Random parts of images.

    Args:
        smallest: smallest share of the area, above 0, up to 1.
        uniform: float32 [B,4] in [0, 1): area, aspect ratio, vertical and horizontal place.

    Returns:
        float32 [B,4] (top, left, height, width) as shares of the image's height and width. The
        area is uniform in [smallest, 1], the aspect ratio (relative to the image's) log-uniform
        among those from 3/4 to 4/3 that leave the part inside of the image.
    """
    area = smallest + (1 - smallest) * uniform[:, 0]
    # width = sqrt(area * ratio) and height = sqrt(area / ratio) are at most 1.
    most = tf.minimum(math.log(ASPECT), -tf.math.log(area))
    ratio = tf.exp((2 * uniform[:, 1] - 1) * most)
    height, width = tf.minimum(tf.sqrt(area / ratio), 1), tf.minimum(tf.sqrt(area * ratio), 1)
    return tf.stack(
        [uniform[:, 2] * (1 - height), uniform[:, 3] * (1 - width), height, width], axis=1
    )


def crop(images: tf.Tensor, smallest: float, uniform: tf.Tensor) -> tf.Tensor:
    """Random parts of images, enlarged to their size (bilinear): the random resized crop of
    Szegedy et al., "Going deeper with convolutions" (CVPR 2015).

    Args:
        images: uint8 [B,H,W,C] of static H, W, C.
        smallest, uniform: see `crop_boxes`.

    Returns:
        uint8 [B,H,W,C].
    """
    height, width = images.shape[1:3]
    top, left, tall, wide = tf.unstack(crop_boxes(smallest, uniform), axis=1)
    zero = tf.zeros_like(top)
    # Pixel centres are at a half: pixel x of the result shows (x + 0.5) wide + left W - 0.5.
    first_column = left * width + 0.5 * wide - 0.5
    first_row = top * height + 0.5 * tall - 0.5
    enlarged = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=tf.stack([wide, zero, first_column, zero, tall, first_row, zero, zero], axis=1),
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    return as_pixels(enlarged)


def grey(images: tf.Tensor) -> tf.Tensor:
    """Luminance [..,1] of images [..,C] of floats, C 1 or 3."""
    if images.shape[-1] == 1:
        return images
    return tf.tensordot(images, tf.constant(_LUMINANCE), 1)[..., None]


def jitter(images: tf.Tensor, strength: float, uniform: tf.Tensor) -> tf.Tensor:
    """Images of another brightness, contrast and saturation, in this order (Howard, "Some
    improvements on deep convolutional neural network based image classification", 2013).

    Args:
        images: uint8 [B,H,W,C], C 1 or 3.
        strength: each of the three is multiplied by a factor from 1 - strength to 1 + strength.
            Contrast is the distance to the image's mean luminance, saturation that to each
            pixel's luminance (of no effect on grey images).
        uniform: float32 [B,3] in [0, 1).

    Returns:
        uint8 [B,H,W,C].
    """
    factors = 1 + strength * (2 * uniform - 1)
    brightness, contrast, saturation = tf.unstack(factors[:, None, None, None, :], axis=-1)
    values = tf.clip_by_value(tf.cast(images, tf.float32) * brightness, 0, 255)
    mean = tf.reduce_mean(grey(values), axis=(1, 2), keepdims=True)
    values = tf.clip_by_value(mean + contrast * (values - mean), 0, 255)
    luminance = grey(values)
    return as_pixels(luminance + saturation * (values - luminance))
