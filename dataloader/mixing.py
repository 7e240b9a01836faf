"""Mixtures of two training images: mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV
2019).

Each image is mixed with another one of the epoch, drawn by (seed, epoch, index), and is at least
half of the result: it keeps its label and its index, and a batch has two entries more, ``share``
(its share, float32 [B] in [0.5, 1]) and ``other_label`` (int32 [B]).
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from dataloader.photographs import as_pixels

UNIFORM_DRAWS = 4
"""Random numbers an image takes: the other image, which of the two, and the place of the patch."""


class Mixtures(NamedTuple):
    """What happens to images, one row each.

    Attributes:
        other: int64 [B], the index of the other image.
        share: float32 [B] in [0.5, 1], of the image itself.
        cuts: bool [B], whether a patch is pasted (CutMix) instead of adding (mixup).
        place: float32 [B,2] in [0, 1), of the patch's centre: from the top and from the left.
    """

    other: tf.Tensor
    share: tf.Tensor
    cuts: tf.Tensor
    place: tf.Tensor


def draw(mixup: float, cutmix: float, count: int, seed: tf.Tensor) -> Mixtures:
    """What happens to all images of an epoch.

    Args:
        mixup, cutmix: alpha of the Beta(alpha, alpha) distribution of the shares, 0: not this one.
        count: number of images.
        seed: int64 [2].
    """
    uniform = tf.random.stateless_uniform([count, UNIFORM_DRAWS], seed)
    cuts = uniform[:, 1] < (0.5 if mixup and cutmix else float(bool(cutmix)))
    alpha = tf.where(cuts, cutmix or mixup, mixup or cutmix)
    # Beta(a, a) is the share of one of two gamma-distributed numbers in their sum.
    one, two = (
        tf.random.stateless_gamma([count], seed + [0, place], alpha) for place in (1, 2)
    )
    share = tf.math.divide_no_nan(one, one + two)
    # Not count times a float32, whose 24 bits are too few for a large set.
    other = tf.random.stateless_uniform([count], seed + [0, 3], 0, count, tf.int64)
    return Mixtures(other, tf.maximum(share, 1 - share), cuts, uniform[:, 2:])


def rows(mixtures: Mixtures, index: tf.Tensor) -> Mixtures:
    """Those of the images `index`."""
    return Mixtures(*(tf.gather(part, index) for part in mixtures))


def patches(mixtures: Mixtures, height: int, width: int) -> tf.Tensor:
    """Where CutMix pastes: bool [B,H,W]. A rectangle of the image's form, cut off at its borders,
    so that its share of the area is at most ``1 - share``."""
    side = tf.sqrt(1 - mixtures.share)
    inside = []
    for size, centre in ((height, mixtures.place[:, 0]), (width, mixtures.place[:, 1])):
        half = tf.floor(side * size) // 2
        middle = tf.floor(centre * size)
        position = tf.range(size, dtype=tf.float32)[None, :]
        inside.append(
            (position >= (middle - half)[:, None]) & (position < (middle + half)[:, None])
        )
    return inside[0][:, :, None] & inside[1][:, None, :]


def mix(
    images: tf.Tensor, others: tf.Tensor, mixtures: Mixtures
) -> tuple[tf.Tensor, tf.Tensor]:
    """The mixtures of images and others.

    Args:
        images, others: uint8 [B,H,W,C] of static H, W, C.
        mixtures: of these images.

    Returns:
        uint8 [B,H,W,C], and the shares of `images` in them, float32 [B]: those that were drawn, or
        what the patch leaves of the area.
    """
    patch = patches(mixtures, *images.shape[1:3])
    left = 1 - tf.reduce_mean(tf.cast(patch, tf.float32), axis=(1, 2))
    share = mixtures.share[:, None, None, None]
    ours, theirs = tf.cast(images, tf.float32), tf.cast(others, tf.float32)
    added = as_pixels(theirs + share * (ours - theirs))
    pasted = tf.where(patch[..., None], others, images)
    cuts = mixtures.cuts
    return (
        tf.where(cuts[:, None, None, None], pasted, added),
        tf.where(cuts, left, mixtures.share),
    )
