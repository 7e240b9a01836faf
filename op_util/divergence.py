"""Divergences between class probabilities, computed from logits."""

from __future__ import annotations

import tensorflow as tf

# The log-probability of excluded classes: its exponential is 0, and it is finite, so the difference
# of two of them is 0.
LOW = -1e9


def kl_divergence(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """``KL(p || q)`` of each row, ``[B]``; p and q are log-probabilities ``[B, classes]``."""
    return tf.reduce_sum(tf.exp(p) * (p - q), axis=1)


def log_softmax_without(logits: tf.Tensor, left_out: tf.Tensor) -> tf.Tensor:
    """``log softmax`` over the classes that are not left out.

    Args:
        logits: ``[B, classes]``.
        left_out: bool ``[B, classes]``; these classes get probability 0 and do not contribute to
            the `kl_divergence` of two such results.

    Returns:
        ``[B, classes]``, finite.
    """
    low = tf.constant(LOW, logits.dtype)
    total = tf.reduce_logsumexp(tf.where(left_out, low, logits), axis=1, keepdims=True)
    return tf.where(left_out, low, logits - total)
