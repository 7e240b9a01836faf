"""Random flip, rotation and shift of a whole batch in one projective transform."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from registry import UserError

DRAWS = 4
"""Random numbers an image takes: flip, angle, vertical shift, horizontal shift."""


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of the SSKD_SVD paper (section 4): flip, rotation, pad and crop back.

    Attributes:
        flip: mirror left and right, for every second image on average.
        rotation_degrees: rotate about the centre by up to so many degrees either way, 0 to 180,
            by the nearest pixel.
        crop_padding: pad by so many pixels at each side and crop back to the size at a random
            place, which is a shift by -crop_padding..crop_padding whole pixels in each direction.
    """

    flip: bool
    rotation_degrees: float = 15.0
    crop_padding: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.rotation_degrees <= 180:
            raise UserError(
                f"rotation of up to {self.rotation_degrees} degrees: 0 (none) to 180 expected"
            )
        if self.crop_padding != int(self.crop_padding) or self.crop_padding < 0:
            raise UserError(
                f"crop padding of {self.crop_padding} pixels: a whole number from 0 (none) expected"
            )

    @classmethod
    def none(cls) -> Augmentation:
        """No augmentation: images stay as they are."""
        return cls(flip=False, rotation_degrees=0.0, crop_padding=0)

    @property
    def changes_nothing(self) -> bool:
        """Whether images stay as they are."""
        return not self.flip and not self.rotation_degrees and not self.crop_padding


def transforms(
    augmentation: Augmentation, uniform: tf.Tensor, height: int, width: int
) -> tf.Tensor:
    """Projective transforms from a pixel of the result to the pixel of the image it shows.

    The image is flipped, then rotated about its centre ((width - 1) / 2, (height - 1) / 2), then
    shifted. As all three are one transform, what the rotation moves out of sight the shift may
    bring back, where three separate steps would show the fill colour.

    Args:
        augmentation: what may happen.
        uniform: float32 [B,4] in [0, 1): what does happen to each image (see `DRAWS`).
        height, width: of the images, in pixels.

    Returns:
        float32 [B,8] ``(a0, a1, a2, b0, b1, b2, 0, 0)``: the pixel (x, y) of the result shows the
        image at ``(a0 x + a1 y + a2, b0 x + b1 y + b2)``.
    """
    half_x, half_y = (width - 1) / 2, (height - 1) / 2
    flipped = tf.logical_and(augmentation.flip, uniform[:, 0] < 0.5)
    mirror = tf.where(flipped, -1.0, 1.0)
    angle = (2 * uniform[:, 1] - 1) * (augmentation.rotation_degrees * math.pi / 180)
    places = 2 * augmentation.crop_padding + 1
    down = tf.floor(uniform[:, 2] * places) - augmentation.crop_padding - half_y
    right = tf.floor(uniform[:, 3] * places) - augmentation.crop_padding - half_x
    cosine, sine = tf.cos(angle), tf.sin(angle)
    zero = tf.zeros_like(angle)
    return tf.stack(
        [
            mirror * cosine,
            -mirror * sine,
            mirror * (cosine * right - sine * down) + half_x,
            sine,
            cosine,
            sine * right + cosine * down + half_y,
            zero,
            zero,
        ],
        axis=1,
    )


def augment(
    augmentation: Augmentation, images: tf.Tensor, uniform: tf.Tensor, fill: Sequence[int]
) -> tf.Tensor:
    """A batch after augmentation.

    Args:
        augmentation: what may happen.
        images: uint8 [B,H,W,C] of static H, W, C.
        uniform: float32 [B,4] in [0, 1), see `transforms`.
        fill: a uint8 value a channel, painted where there is no image.

    Returns:
        uint8 [B,H,W,C].
    """
    if augmentation.changes_nothing:
        return images
    height, width = images.shape[1:3]
    # The op fills all channels with one value. In the modular arithmetic of uint8 the fill colour
    # can be subtracted first and added afterwards: 0 becomes the colour, all else is as before.
    colour = tf.constant(fill, tf.uint8)
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=images - colour,
        transforms=transforms(augmentation, uniform, height, width),
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return moved + colour
