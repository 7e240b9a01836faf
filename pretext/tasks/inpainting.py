"""Inpainting: predict a hidden part of the image from its surroundings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from plugins import option
from pretext.heads import decoder, dense, places, with_places
from pretext.registration import TASKS
from pretext.task import Images, Task, Views
from registry import UserError

_GREY = 0.5


@TASKS.register("inpainting")
class Inpainting(Task):
    """Pathak et al., "Context encoders: feature learning by inpainting", CVPR 2016.

    This is their reconstruction loss (equation 1) without the adversarial loss. The hidden part is
    a rectangle at a random position; the paper hides the centre or several blocks.

    Args:
        smallest, largest: the rectangle's height and width are drawn between these shares of the
            image's height and width.
    """

    paper = "Pathak et al., CVPR 2016, arXiv 1604.07379"
    kind = "generative"
    metric = "squared error of the hidden part"
    metric_rises = False

    smallest: float = option(0.35, above=0, maximum=0.99)
    largest: float = option(0.65, above=0, maximum=0.99)

    def check(self) -> None:
        if self.smallest > self.largest:
            raise UserError(
                f"inpainting: smallest is {self.smallest} and largest is {self.largest}: give a "
                "largest of at least smallest"
            )

    def views(self, images: Images) -> Views:
        height, width, _ = images.shape

        def make(batch: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
            rows = self._inside(uniform[:, 0], uniform[:, 1], height)
            columns = self._inside(uniform[:, 2], uniform[:, 3], width)
            is_hidden = (rows[:, :, None] & columns[:, None, :])[..., None]
            return [tf.where(is_hidden, _GREY, batch)], (batch, tf.cast(is_hidden, tf.float32))

        return Views(images.shape, draws=4, make=make)

    def _inside(self, extent: tf.Tensor, place: tf.Tensor, side: int) -> tf.Tensor:
        """Whether each of `side` rows is in the rectangle, bool ``[B, side]``.

        At least one row is, and not all are.
        """
        share = self.smallest + extent * (self.largest - self.smallest)
        length = tf.clip_by_value(tf.round(share * side), 1, side - 1)
        first = tf.floor(place * (side - length + 1))
        row = tf.range(side, dtype=tf.float32)
        return (row >= first[:, None]) & (row < (first + length)[:, None])

    def build(
        self, images: Images, feature_shape: Sequence[int], width: int
    ) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        height, across, channels = images.shape
        return (
            dense("inpainting_neck", places(feature_shape), width),
            decoder("inpainting_head", width, (height, across), channels),
        )

    def embed(
        self, neck: keras.layers.Layer, features: Sequence[tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        return neck(with_places(features[0]))

    def loss(self, output: tf.Tensor, target: Any) -> tf.Tensor:
        """The squared error of the hidden part, averaged over the batch."""
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
