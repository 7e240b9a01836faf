"""RandAugment (Cubuk et al., NeurIPS 2020): some operations, drawn anew for each image.

The fourteen operations and the ranges of their magnitudes are the paper's, with the results of
Pillow's functions of the same names. Sheared and rotated images turn about their centre.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from dataloader.photographs import as_pixels, grey

DRAWS = 2
"""Random numbers an operation takes: which one, and the sign of its magnitude."""

LARGEST = 10.0
"""The magnitude at which angles, shifts and factors are the largest."""

Operation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""From an image uint8 [H,W,C] and a signed strength, a scalar in [-1, 1], to another image."""


# Colours


def _blended(image: tf.Tensor, plain: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """`image` moved away from a `plain` one by the factor ``1 + 0.9 strength``."""
    return as_pixels(plain + (1 + 0.9 * strength) * (tf.cast(image, tf.float32) - plain))


def brightness(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Distance to black."""
    return _blended(image, tf.zeros([], tf.float32), strength)


def contrast(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Distance to the mean luminance."""
    return _blended(image, tf.round(tf.reduce_mean(grey(tf.cast(image, tf.float32)))), strength)


def color(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Distance to each pixel's luminance."""
    return _blended(image, tf.round(grey(tf.cast(image, tf.float32))), strength)


def sharpness(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Distance to a smoothed image."""
    values = tf.cast(image, tf.float32)
    channels = image.shape[-1]
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32)[:, :, None, None] / 13
    inner = tf.nn.depthwise_conv2d(
        values[None], tf.tile(kernel, [1, 1, channels, 1]), [1, 1, 1, 1], "VALID"
    )[0]
    border = [[1, 1], [1, 1], [0, 0]]
    is_inner = tf.pad(tf.ones_like(inner), border) > 0
    smooth = tf.where(is_inner, tf.pad(tf.round(inner), border), values)  # as is at the border
    return _blended(image, smooth, strength)


def posterize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Keep 8 to 4 bits."""
    lost = tf.cast(tf.round(4 * tf.abs(strength)), tf.int32)
    values = tf.cast(image, tf.int32)
    return tf.cast(tf.bitwise.left_shift(tf.bitwise.right_shift(values, lost), lost), tf.uint8)


def solarize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Invert what is at least as bright as a threshold, from 255 down to 0."""
    threshold = 255 * (1 - tf.abs(strength))
    return tf.where(tf.cast(image, tf.float32) < threshold, image, 255 - image)


def autocontrast(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Stretch each channel to 0..255."""
    del strength
    values = tf.cast(image, tf.int32)
    low = tf.reduce_min(values, axis=(0, 1))
    span = tf.reduce_max(values, axis=(0, 1)) - low
    stretched = 255 * (values - low) // tf.maximum(span, 1)
    return tf.where(span > 0, tf.cast(stretched, tf.uint8), image)


def equalize(image: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Make the histogram of each channel even."""
    del strength
    channels = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    return tf.stack([tf.cast(_equalized(channel), tf.uint8) for channel in channels], axis=-1)


def _equalized(channel: tf.Tensor) -> tf.Tensor:
    counts = tf.math.bincount(tf.reshape(channel, [-1]), minlength=256, maxlength=256)
    brightest = counts[tf.reduce_max(channel)]
    step = (tf.reduce_sum(counts) - brightest) // 255
    below = tf.cumsum(counts, exclusive=True)
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    return tf.where(step > 0, tf.gather(table, channel), channel)


# Geometry


def _moved(image: tf.Tensor, matrix: Sequence[tf.Tensor | float], fill: tf.Tensor) -> tf.Tensor:
    """The image under an affine map about its centre, from pixels of the result to those of the
    image, by the nearest pixel.

    Args:
        matrix: ``(a, b, c, d, e, f)``: (x, y) shows ``(a x + b y + c, d x + e y + f)``.
        fill: uint8 [C], outside of the image.
    """
    height, width = image.shape[:2]
    a, b, c, d, e, f = (tf.cast(value, tf.float32) for value in matrix)
    x, y = (width - 1) / 2, (height - 1) / 2
    zero = tf.zeros([])
    transform = [a, b, c + x - a * x - b * y, d, e, f + y - d * x - e * y, zero, zero]
    # As in `augmentation.augment`: the fill colour is subtracted and added in modular arithmetic.
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=(image - fill)[None], transforms=tf.stack(transform)[None],
        output_shape=(height, width), fill_value=0.0, interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]
    return moved + fill


def rotate(image: tf.Tensor, strength: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """By up to 30 degrees."""
    angle = strength * (math.pi / 6)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    return _moved(image, (cosine, -sine, 0.0, sine, cosine, 0.0), fill)


def shear_x(image: tf.Tensor, strength: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """By up to 0.3."""
    return _moved(image, (1.0, 0.3 * strength, 0.0, 0.0, 1.0, 0.0), fill)


def shear_y(image: tf.Tensor, strength: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """By up to 0.3."""
    return _moved(image, (1.0, 0.0, 0.0, 0.3 * strength, 1.0, 0.0), fill)


def translate_x(image: tf.Tensor, strength: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """By up to 0.45 of the side, whole pixels."""
    shift = tf.round(0.45 * strength * image.shape[1])
    return _moved(image, (1.0, 0.0, shift, 0.0, 1.0, 0.0), fill)


def translate_y(image: tf.Tensor, strength: tf.Tensor, fill: tf.Tensor) -> tf.Tensor:
    """By up to 0.45 of the side, whole pixels."""
    shift = tf.round(0.45 * strength * image.shape[0])
    return _moved(image, (1.0, 0.0, 0.0, 0.0, 1.0, shift), fill)


# Together


def operations(fill: tf.Tensor) -> list[Operation]:
    """The operations, each as likely as the others.

    Args:
        fill: uint8 [C], painted where there is no image.
    """
    geometric = (rotate, shear_x, shear_y, translate_x, translate_y)
    return [
        lambda image, strength: image, autocontrast, equalize, solarize, color, posterize,
        contrast, brightness, sharpness,
        *(functools.partial(each, fill=fill) for each in geometric),
    ]


def randaugment(
    images: tf.Tensor, magnitude: float, uniform: tf.Tensor, fill: Sequence[int]
) -> tf.Tensor:
    """Images after some operations each.

    Args:
        images: uint8 [B,H,W,C] of static H, W, C.
        magnitude: 0 to 10, of all operations.
        uniform: float32 [B,2N] in [0, 1), `DRAWS` for each of N operations.
        fill: a uint8 value a channel, painted where there is no image.

    Returns:
        uint8 [B,H,W,C].
    """
    chosen = operations(tf.constant(fill, tf.uint8))

    def of_image(given: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, draws = given
        for place in range(0, uniform.shape[1], DRAWS):
            strength = tf.where(draws[place + 1] < 0.5, -1.0, 1.0) * (magnitude / LARGEST)
            number = tf.cast(draws[place] * len(chosen), tf.int32)
            image = tf.switch_case(
                number, [functools.partial(each, image, strength) for each in chosen]
            )
            image = tf.ensure_shape(image, images.shape[1:])
        return image

    return tf.map_fn(
        of_image, (images, uniform),
        fn_output_signature=tf.TensorSpec(images.shape[1:], tf.uint8),
    )
