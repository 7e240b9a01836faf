"""Reconstruction: a denoising auto-encoder restores the image from a damaged one."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from plugins import option
from pretext.heads import decoder, dense, places, with_places
from pretext.registration import TASKS
from pretext.task import Images, Task, Views

_NOISE = 2**20


@functools.cache
def kept_pixels(count: int, masked: float) -> np.ndarray:
    """At least `count` zeros and ones, float32; the share of zeros is about `masked`."""
    noise = np.random.default_rng(0).random(max(_NOISE, 4 * count)) >= masked
    return noise.astype(np.float32)


@TASKS.register("reconstruction")
class Reconstruction(Task):
    """Vincent et al., "Extracting and composing robust features with denoising autoencoders", 2008.

    Args:
        masked: share of the pixels that are set to zero in the view, in all channels at once (the
            paper's masking noise, section 4: 0.1 or 0.25 for most of its problems).
    """

    paper = "Vincent et al., ICML 2008"
    kind = "generative"
    metric = "squared error"
    metric_rises = False

    masked: float = option(0.25, minimum=0, maximum=0.99)

    def views(self, images: Images) -> Views:
        height, width, _ = images.shape
        pixels = math.prod((height, width))

        def make(batch: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
            # Each image takes a part of one shared table of noise. So it needs only one random
            # number, however many pixels it has.
            table = tf.constant(kept_pixels(pixels, self.masked))
            start = tf.cast(uniform[:, :1] * (table.shape[0] - pixels), tf.int32)
            kept = tf.gather(table, start + tf.range(pixels))
            return [batch * tf.reshape(kept, [-1, height, width, 1])], batch

        return Views(images.shape, draws=1, make=make)

    def build(
        self, images: Images, feature_shape: Sequence[int], width: int
    ) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        height, across, channels = images.shape
        return (
            dense("reconstruction_neck", places(feature_shape), width),
            decoder("reconstruction_head", width, (height, across), channels),
        )

    def embed(
        self, neck: keras.layers.Layer, features: Sequence[tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        return neck(with_places(features[0]))

    def loss(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """The squared error, averaged over batch, pixels and channels."""
        return tf.reduce_mean(self.score(output, target))

    def score(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Each image's mean squared error, of values in 0..1."""
        return tf.reduce_mean((output - target) ** 2, axis=[1, 2, 3])

    def pictures(
        self, inputs: Sequence[tf.Tensor], output: tf.Tensor, target: tf.Tensor
    ) -> Any:
        return tf.concat([inputs[0], tf.clip_by_value(output, 0, 1), target], axis=2)
