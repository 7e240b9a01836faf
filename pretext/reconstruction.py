"""Reconstruction: a denoising auto-encoder, the image from a damaged one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pretext.heads import decoder, dense, places, with_places
from pretext.registration import register
from pretext.task import Task
from registry import UserError

_TABLE = 2**20


@register("reconstruction")
@dataclasses.dataclass(eq=False)
class Reconstruction(Task):
    """Vincent et al., "Extracting and composing robust features with denoising autoencoders", 2008.

    Args:
        masked: share of the pixels that are set to zero in the view, all channels at once (the
            paper's masking noise, section 4: 0.1 or 0.25 for most of its problems).
    """

    paper = "Vincent et al., ICML 2008"
    kind = "generative"
    metric = "squared error"
    metric_rises = False

    masked: float = 0.25

    def check(self) -> None:
        if not 0 <= self.masked < 1:
            raise UserError(f"reconstruction: masked must be >= 0 and < 1, not {self.masked}")
        # One table of noise for all images, of which each takes a part by its own: so the noise of
        # an image needs a single random number, however many pixels there are.
        pixels = math.prod(self.image_shape[:2])
        noise = np.random.default_rng(0).random(max(_TABLE, 4 * pixels)) >= self.masked
        self._table = tf.constant(noise.astype(np.float32))

    @property
    def draws(self) -> int:
        return 1

    def views(self, images: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The image with some pixels at zero; the image."""
        height, width, _ = self.image_shape
        pixels = height * width
        last = self._table.shape[0] - pixels
        start = tf.cast(uniform[:, :1] * last, tf.int32)
        kept = tf.gather(self._table, start + tf.range(pixels))
        return [images * tf.reshape(kept, [-1, height, width, 1])], images

    def build(self, feature_shape: Sequence[int], width: int) -> None:
        height, across, channels = self.image_shape
        self._neck = dense("reconstruction_neck", places(feature_shape), width)
        self._head = decoder("reconstruction_head", width, (height, across), channels)
        self.layers = [self._neck, self._head]

    def embed(self, features: Sequence[tf.Tensor], training: bool = False) -> tf.Tensor:
        return self._neck(with_places(features[0]))

    def predict(self, h: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The image, ``[B, H, W, C]``."""
        return self._head(h, training=training)

    def loss(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """The squared error, mean over batch, pixels and channels."""
        return tf.reduce_mean(self.score(output, target))

    def score(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Each image's mean squared error, of values in 0..1."""
        return tf.reduce_mean((output - target) ** 2, axis=[1, 2, 3])

    def pictures(
        self, inputs: Sequence[tf.Tensor], output: tf.Tensor, target: tf.Tensor
    ) -> Any:
        return tf.concat([inputs[0], tf.clip_by_value(output, 0, 1), target], axis=2)
