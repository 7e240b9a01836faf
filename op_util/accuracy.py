"""Top-1 and top-k accuracy, with ties counted as argmax counts them."""

from __future__ import annotations

import tensorflow as tf


def top_k_hits(logits: tf.Tensor, labels: tf.Tensor, k: int) -> tf.Tensor:
    """Whether the label is among the k largest logits, of equal ones the first counting as larger.

    Args:
        logits: ``[B, classes]``, compared in float32.
        labels: ``[B]``, class numbers from 0.
        k: at least 1.

    Returns:
        float32 ``[B]``, 1 or 0.
    """
    logits = tf.cast(logits, tf.float32)
    labels = tf.cast(labels, tf.int32)[:, None]
    own = tf.gather(logits, labels, batch_dims=1)
    earlier = tf.range(logits.shape[-1])[None, :] < labels
    ahead = (logits > own) | ((logits == own) & earlier)
    count = tf.reduce_sum(tf.cast(ahead, tf.float32), axis=1)
    is_number = ~tf.math.is_nan(own[:, 0])
    return tf.cast(is_number & (count < k), tf.float32)
