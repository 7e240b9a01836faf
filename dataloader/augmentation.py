"""What may happen to training images, and flip, rotation and shift of a batch in one transform.

What is meant for photographs is in `photographs`, `randaugment` and `mixing`. Everything is a
function of an image and of random numbers that are given, so that these alone decide.
"""

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
    """What may happen to an image. By default that of the SSKD_SVD paper (section 4): flip,
    rotation, pad and crop back. First comes the random resized crop, then these three in one
    transform, RandAugment, the colour jitter, and last mixup or CutMix.

    Attributes:
        flip: mirror left and right, for every second image on average.
        rotation_degrees: rotate about the centre by up to so many degrees either way, 0 to 180,
            by the nearest pixel.
        crop_padding: pad by so many pixels at each side and crop back to the size at a random
            place, which is a shift by -crop_padding..crop_padding whole pixels in each direction.
        random_resized_crop: smallest share of the area that is cropped and enlarged to the size of
            the image (see `photographs.crop`), above 0, up to 1; 0: none.
        color_jitter: strength of the change of brightness, contrast and saturation (see
            `photographs.jitter`), 0 (none) to 1.
        randaugment: number of operations, 0 (none) or more, and their magnitude, 0 to 10 (see
            `randaugment`).
        mixup: alpha of mixup (see `mixing`), 0: none.
        cutmix: alpha of CutMix, 0: none. Where both are given, each image gets one of them.
    """

    flip: bool
    rotation_degrees: float = 15.0
    crop_padding: int = 4
    random_resized_crop: float = 0.0
    color_jitter: float = 0.0
    randaugment: tuple[int, float] = (0, 0.0)
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rotation_degrees <= 180:
            raise UserError(
                f"rotation of up to {self.rotation_degrees} degrees; expected 0 (none) to 180"
            )
        if self.crop_padding != int(self.crop_padding) or self.crop_padding < 0:
            raise UserError(
                f"crop padding of {self.crop_padding} pixels; expected a whole number, 0 (none) or "
                "more"
            )
        self._check_photographs()

    def _check_photographs(self) -> None:
        for name in ("random_resized_crop", "color_jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} of {getattr(self, name)}; expected 0 (none) to 1")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} of {getattr(self, name)}; expected 0 (none) or more")
        number, magnitude = self.randaugment
        if number != int(number) or number < 0 or not 0 <= magnitude <= 10:
            raise UserError(
                f"randaugment of {number:g},{magnitude:g}; expected a number of operations, 0 "
                "(none) or more, and a magnitude from 0 to 10"
            )

    @classmethod
    def none(cls) -> Augmentation:
        """No augmentation: images stay as they are."""
        return cls(flip=False, rotation_degrees=0.0, crop_padding=0)

    @property
    def moves(self) -> bool:
        """Whether images are flipped, rotated or shifted."""
        return bool(self.flip or self.rotation_degrees or self.crop_padding)

    @property
    def mixes(self) -> bool:
        """Whether two images are mixed."""
        return bool(self.mixup or self.cutmix)

    @property
    def changes_nothing(self) -> bool:
        """Whether images stay as they are."""
        return not (
            self.moves or self.mixes or self.random_resized_crop or self.color_jitter
            or self.randaugment[0]
        )


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
    """A batch after flip, rotation and shift.

    Args:
        augmentation: what may happen.
        images: uint8 [B,H,W,C] of static H, W, C.
        uniform: float32 [B,4] in [0, 1), see `transforms`.
        fill: a uint8 value a channel, painted where there is no image.

    Returns:
        uint8 [B,H,W,C].
    """
    if not augmentation.moves:
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
