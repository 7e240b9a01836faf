"""From the raw images of a batch to what a network takes."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True)
class Standardize:
    """``(image - mean) / deviation`` for each channel.

    Attributes:
        mean, deviation: one number a channel, in units of 0..255.
        size: (height, width) to resize to (bilinear, antialiased); None: as the images are.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    size: tuple[int, int] | None = None

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        """From ``[B, H, W, C]`` of any number type in 0..255 to float32."""
        image = tf.cast(image, tf.float32)
        if self.size is not None and tuple(image.shape[1:3]) != self.size:
            image = tf.image.resize(image, self.size, antialias=True)
        return (image - tf.constant(self.mean)) / tf.constant(self.deviation)
