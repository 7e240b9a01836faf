"""Rotation: by which of four angles the image is turned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pretext.heads import cross_entropy, dense, is_correct, pooled
from pretext.registration import register
from pretext.task import Task
from registry import UserError

_ANGLES = 4


@register("rotation")
@dataclasses.dataclass(eq=False)
class Rotation(Task):
    """Gidaris, Singh & Komodakis, "Unsupervised representation learning by predicting image
    rotations", ICLR 2018.

    One of the four rotations of each image a step, where they show all four. Of an image that is no
    square the central square is shown.
    """

    paper = "Gidaris et al., ICLR 2018, arXiv 1803.07728"

    def check(self) -> None:
        height, width, _ = self.image_shape
        if min(height, width) < self.minimum_size:
            raise UserError(
                f"rotation shows the central square of images of {height}x{width} pixels, and the "
                f"encoder needs at least {self.minimum_size}x{self.minimum_size}: give larger or "
                "square images"
            )
        side = self.view_shape[0]
        top, left = (height - side) // 2, (width - side) // 2
        pixel = np.arange(height * width, dtype=np.int32).reshape(height, width)
        square = pixel[top : top + side, left : left + side]
        # Which pixel of the image each pixel of the view shows, for each of the angles.
        self._sources = tf.constant([np.rot90(square, k).ravel() for k in range(_ANGLES)])

    @property
    def view_shape(self) -> tuple[int, int, int]:
        height, width, channels = self.image_shape
        side = min(height, width)
        return side, side, channels

    @property
    def draws(self) -> int:
        return 1

    def views(self, images: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The image, turned anticlockwise by 90 degrees k times; k, int32 ``[B]`` in 0..3."""
        turns = tf.cast(uniform[:, 0] * _ANGLES, tf.int32)
        pixels = tf.reshape(images, [-1, math.prod(self.image_shape[:2]), self.image_shape[2]])
        turned = tf.gather(pixels, tf.gather(self._sources, turns), batch_dims=1)
        return [tf.reshape(turned, [-1, *self.view_shape])], turns

    def build(self, feature_shape: Sequence[int], width: int) -> None:
        self._neck = dense("rotation_neck", feature_shape[-1], width)
        self._head = dense("rotation_head", width, _ANGLES)
        self.layers = [self._neck, self._head]

    def embed(self, features: Sequence[tf.Tensor], training: bool = False) -> tf.Tensor:
        return self._neck(pooled(features[0]))

    def predict(self, h: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits of the angles, ``[B, 4]``."""
        return self._head(tf.nn.relu(h))

    def loss(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """The cross-entropy, mean over the batch."""
        return cross_entropy(output, target)

    def score(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """1 where the angle is found, else 0."""
        return is_correct(output, target)
