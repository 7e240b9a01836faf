"""Rotation: predict by which of four angles the image was rotated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pretext.heads import cross_entropy, dense, is_correct
from pretext.registration import TASKS
from pretext.task import Images, Task, Views
from registry import UserError

ANGLES = 4


def turned(images: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """The central square of each image, rotated anticlockwise by 90 degrees `turns` times.

    Args:
        images: ``[B, H, W, C]``.
        turns: int32 ``[B]`` in 0..3.

    Returns:
        ``[B, side, side, C]``, side being the smaller of H and W.
    """
    height, width, channels = images.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixel = np.arange(height * width, dtype=np.int32).reshape(height, width)
    square = pixel[top : top + side, left : left + side]
    # For each angle, the source pixel of each pixel of the view.
    sources = tf.constant(np.stack([np.rot90(square, k).ravel() for k in range(ANGLES)]))
    pixels = tf.reshape(images, [-1, math.prod((height, width)), channels])
    found = tf.gather(pixels, tf.gather(sources, turns), batch_dims=1)
    return tf.reshape(found, [-1, side, side, channels])


@TASKS.register("rotation")
class Rotation(Task):
    """Gidaris, Singh & Komodakis, "Unsupervised representation learning by predicting image
    rotations", ICLR 2018.

    Each step shows one of the four rotations of each image; the paper shows all four. If the image
    is not square, its central square is used.
    """

    paper = "Gidaris et al., ICLR 2018, arXiv 1803.07728"

    def views(self, images: Images) -> Views:
        height, width, channels = images.shape
        side = min(height, width)
        if side < images.minimum_size:
            least = images.minimum_size
            raise UserError(
                f"rotation shows the central square of images of {height}x{width} pixels, but the "
                f"encoder needs at least {least}x{least}: give larger or square images"
            )

        def make(batch: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
            turns = tf.cast(uniform[:, 0] * ANGLES, tf.int32)
            return [turned(batch, turns)], turns

        return Views((side, side, channels), draws=1, make=make)

    def build(
        self, images: Images, feature_shape: Sequence[int], width: int
    ) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        return (
            dense("rotation_neck", feature_shape[-1], width),
            dense("rotation_head", width, ANGLES),
        )

    def predict(self, head: keras.layers.Layer, h: tf.Tensor, training: bool = False) -> Any:
        """The logits of the angles, ``[B, 4]``."""
        return head(tf.nn.relu(h))

    def loss(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """The cross-entropy, averaged over the batch."""
        return cross_entropy(output, target)

    def score(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """1 if the predicted angle is right, else 0."""
        return is_correct(output, target)
