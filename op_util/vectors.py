"""Lengths and directions of vectors, with gradients that are finite even at the zero vector.

At 0, automatic differentiation of ``||x||`` multiplies an infinite derivative by 0 and gives NaN.
Here the gradient is 0, one of the norm's subgradients. Zero vectors do occur: as the difference of
two equal samples of a batch, or as a channel that responds to nothing.
"""

from __future__ import annotations

import tensorflow as tf


def lengths(vectors: tf.Tensor) -> tf.Tensor:
    """Euclidean norms ``[..., 1]`` of vectors ``[..., D]``."""
    squares = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    is_any = squares != 0
    return tf.where(is_any, tf.sqrt(tf.where(is_any, squares, 1)), 0)


def directions(vectors: tf.Tensor) -> tf.Tensor:
    """``x / ||x||`` of vectors ``[..., D]``; a zero vector stays zero and gets no gradient."""
    return tf.math.divide_no_nan(vectors, lengths(vectors))
