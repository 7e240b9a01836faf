"""Lengths and directions of vectors whose gradients are finite at the zero vector too.

The derivative of ``||x||`` at 0 is infinite by the chain rule, though what it is multiplied with is
0; here it is 0, one of the norm's subgradients. Two equal samples of a batch, or a channel that
answers to nothing, are such vectors.
"""

from __future__ import annotations

import tensorflow as tf


def lengths(vectors: tf.Tensor) -> tf.Tensor:
    """Euclidean norms ``[..., 1]`` of vectors ``[..., D]``."""
    squares = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    is_any = squares != 0
    return tf.where(is_any, tf.sqrt(tf.where(is_any, squares, 1)), 0)


def directions(vectors: tf.Tensor) -> tf.Tensor:
    """``x / ||x||`` of vectors ``[..., D]``; a zero vector stays one, and gets no gradient."""
    return tf.math.divide_no_nan(vectors, lengths(vectors))
