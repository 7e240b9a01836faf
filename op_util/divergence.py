"""Divergences between class probabilities, from logits."""

from __future__ import annotations

import tensorflow as tf

# A logarithm so low that its exponential is 0; finite, so that a difference of two of them is 0.
LOW = -1e9


def kl_divergence(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """``KL(p || q)`` of each row ``[B]``, p and q log-probabilities ``[B, classes]``."""
    return tf.reduce_sum(tf.exp(p) * (p - q), axis=1)


def log_softmax_without(logits: tf.Tensor, left_out: tf.Tensor) -> tf.Tensor:
    """``log softmax`` over the classes that are not left out.

    Args:
        logits: ``[B, classes]``.
        left_out: bool ``[B, classes]``; these classes have probability 0, and `kl_divergence` of
            two such results does not count them.

    Returns:
        ``[B, classes]``, finite.
    """
    low = tf.constant(LOW, logits.dtype)
    total = tf.reduce_logsumexp(tf.where(left_out, low, logits), axis=1, keepdims=True)
    return tf.where(left_out, low, logits - total)
