"""Inpainting: what a hidden part of the image shows, from what is around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pretext.heads import decoder, dense, places, with_places
from pretext.registration import register
from pretext.task import Task
from registry import UserError

_GREY = 0.5


@register("inpainting")
@dataclasses.dataclass(eq=False)
class Inpainting(Task):
    """Pathak et al., "Context encoders: feature learning by inpainting", CVPR 2016.

    Their reconstruction loss (equation 1) without the adversarial one; the hidden part is a
    rectangle at a random place, where they hide the centre or several blocks.

    Args:
        smallest, largest: the rectangle's height as a share of the image's, drawn in between; its
            width likewise.
    """

    paper = "Pathak et al., CVPR 2016, arXiv 1604.07379"
    kind = "generative"
    metric = "squared error of the hidden part"
    metric_rises = False

    smallest: float = 0.35
    largest: float = 0.65

    def check(self) -> None:
        if not 0 < self.smallest <= self.largest < 1:
            raise UserError(
                "inpainting: 0 < smallest <= largest < 1 expected, not smallest "
                f"{self.smallest} and largest {self.largest}"
            )

    @property
    def draws(self) -> int:
        return 4

    def views(self, images: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
        """The image with a grey rectangle; the image, and where the rectangle is (1, else 0)."""
        height, width, _ = self.image_shape
        rows = self._inside(uniform[:, 0], uniform[:, 1], height)
        columns = self._inside(uniform[:, 2], uniform[:, 3], width)
        is_hidden = (rows[:, :, None] & columns[:, None, :])[..., None]
        return [tf.where(is_hidden, _GREY, images)], (images, tf.cast(is_hidden, tf.float32))

    def _inside(self, extent: tf.Tensor, place: tf.Tensor, side: int) -> tf.Tensor:
        """Whether each of `side` rows is in the rectangle: bool ``[B, side]``, true for at least
        one and not for all."""
        share = self.smallest + extent * (self.largest - self.smallest)
        length = tf.clip_by_value(tf.round(share * side), 1, side - 1)
        first = tf.floor(place * (side - length + 1))
        row = tf.range(side, dtype=tf.float32)
        return (row >= first[:, None]) & (row < (first + length)[:, None])

    def build(self, feature_shape: Sequence[int], width: int) -> None:
        height, across, channels = self.image_shape
        self._neck = dense("inpainting_neck", places(feature_shape), width)
        self._head = decoder("inpainting_head", width, (height, across), channels)
        self.layers = [self._neck, self._head]

    def embed(self, features: Sequence[tf.Tensor], training: bool = False) -> tf.Tensor:
        return self._neck(with_places(features[0]))

    def predict(self, h: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The whole image, ``[B, H, W, C]``; only its hidden part is judged."""
        return self._head(h, training=training)

    def loss(self, output: tf.Tensor, target: Any) -> tf.Tensor:
        """The squared error of the hidden part, mean over the batch."""
        return tf.reduce_mean(self.score(output, target))

    def score(self, output: tf.Tensor, target: Any) -> tf.Tensor:
        """Each image's mean squared error over its hidden part, of values in 0..1."""
        image, hidden = target
        error = tf.reduce_mean((output - image) ** 2, axis=3, keepdims=True)
        return tf.reduce_sum(error * hidden, [1, 2, 3]) / tf.reduce_sum(hidden, [1, 2, 3])

    def pictures(self, inputs: Sequence[tf.Tensor], output: tf.Tensor, target: Any) -> Any:
        image, hidden = target
        filled = hidden * tf.clip_by_value(output, 0, 1) + (1 - hidden) * image
        return tf.concat([inputs[0], filled, image], axis=2)
