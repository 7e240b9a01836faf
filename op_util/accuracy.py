"""Top-1 and top-k accuracy, with ties counted as argmax counts them."""

from __future__ import annotations

import tensorflow as tf


def top_k_hits(logits: tf.Tensor, labels: tf.Tensor, k: int) -> tf.Tensor:
    """Whether each image's class is among the k classes of the largest logits.

    Of equal logits the class with the smaller number comes first, as for `tf.argmax`: so top-1
    counts the images for which the prediction equals the label, and a network that gives all
    classes the same logit is right as often as class 0 occurs. (`tf.math.in_top_k` counts every
    tie as right, which calls such a network perfect.)

    Args:
        logits: ``[B, classes]``, any floating type, compared in float32.
        labels: ``[B]``, integers; a label outside of ``0 .. classes - 1`` is never hit.
        k: at least 1.

    Returns:
        float32 ``[B]``, 1 or 0; 0 where one of the logits is NaN, which has no place in an order.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    logits = tf.cast(logits, tf.float32)
    # In float32, which is exact up to 2^24 classes: on a GPU, TensorFlow compares and adds int32
    # on the host, and waits for it.
    label = tf.cast(labels, tf.float32)[:, None]
    number = tf.range(logits.shape[-1], dtype=tf.float32)
    own = tf.where(number == label, logits, -float("inf"))
    own = tf.reduce_max(own, axis=1, keepdims=True)
    is_ahead = (logits > own) | ((logits == own) & (number < label))
    rank = tf.reduce_sum(tf.cast(is_ahead, tf.float32), axis=1)
    is_known = tf.reduce_any(number == label, axis=1)
    has_order = ~tf.reduce_any(tf.math.is_nan(logits), axis=1)
    return tf.cast((rank < k) & is_known & has_order, tf.float32)
