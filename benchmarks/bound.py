"""The lower bound on a distillation step's time."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

import distillers
from distillers.reading import Maps


class MeanSquare(distillers.Method):
    """Nothing that compares the same taps could be cheaper."""

    reads = Maps()
    combination = distillers.Combination.CLIP

    def loss(self, teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]) -> tf.Tensor:
        """The mean squared difference in float32, summed over taps."""
        pairs = zip(teacher, student, strict=True)
        return tf.add_n([tf.reduce_mean(tf.cast(t - s, tf.float32) ** 2) for t, s in pairs])
