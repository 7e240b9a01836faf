"""Top-1 and top-k accuracy and agreement, with ties resolved as argmax does."""

from __future__ import annotations

import tensorflow as tf


def top_k_hits(logits: tf.Tensor, labels: tf.Tensor, k: int) -> tf.Tensor:
    """Whether each image's class is among the k classes with the largest logits.

    Of equal logits, the class with the smaller number comes first, as with `tf.argmax`. So top-1
    counts the images for which the prediction equals the label, and a network that gives all
    classes the same logit is right as often as class 0 occurs. (`tf.math.in_top_k` counts every
    tie as correct, so it would call such a network perfect.)

    Args:
        logits: ``[B, classes]``, any floating type, compared in float32.
        labels: ``[B]``, integers; a label outside ``0 .. classes - 1`` is never a hit.
        k: at least 1.

    Returns:
        float32 ``[B]``, 1 or 0; 0 if any of the image's logits is NaN, because NaN has no rank.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; expected at least 1")
    logits = tf.cast(logits, tf.float32)
    # Float32 is exact up to 2^24 classes. On a GPU, TensorFlow would compare and add int32 on the
    # host and wait for it.
    label = tf.cast(labels, tf.float32)[:, None]
    number = tf.range(logits.shape[-1], dtype=tf.float32)
    own = tf.where(number == label, logits, -float("inf"))
    own = tf.reduce_max(own, axis=1, keepdims=True)
    is_ahead = (logits > own) | ((logits == own) & (number < label))
    rank = tf.reduce_sum(tf.cast(is_ahead, tf.float32), axis=1)
    is_known = tf.reduce_any(number == label, axis=1)
    has_order = ~tf.reduce_any(tf.math.is_nan(logits), axis=1)
    return tf.cast((rank < k) & is_known & has_order, tf.float32)


def agreements(logits: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Whether two networks give an image the same class.

    Args:
        logits, others: ``[B, classes]`` of the two networks, any floating type.

    Returns:
        float32 ``[B]``, 1 or 0; 0 if any of the image's logits is NaN, because NaN names no class.
    """
    known = ~tf.reduce_any(tf.math.is_nan(others), axis=1)
    return top_k_hits(logits, tf.argmax(others, axis=1), 1) * tf.cast(known, tf.float32)
