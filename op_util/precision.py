"""Which types losses are computed in."""

from __future__ import annotations

import tensorflow as tf


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
    """`x`, widened where its type has fewer digits than float32."""
    return x if x.dtype in (tf.float32, tf.float64) else tf.cast(x, tf.float32)
