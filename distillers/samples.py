"""Sums and means over the samples of the global batch that count."""

from __future__ import annotations

import tensorflow as tf

from replicas import global_sum


def sum_over_good(values: tf.Tensor, good: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum of the good samples' values, times ``B / good``, so that dropped samples do not make
    the loss smaller.

    Args:
        values: ``[b]``, what each of this replica's samples loses.
        good: ``[b]``, which samples count; the others get no gradient. B and the number of good
            ones are those of all replicas together.

    Returns:
        The scalar, and the share of samples that were dropped.
    """
    ones = tf.cast(good, tf.float32)
    share = tf.math.divide_no_nan(
        *global_sum([tf.reduce_sum(ones), tf.cast(tf.size(ones), tf.float32)])
    )
    total = tf.reduce_sum(tf.where(good, values, 0))
    return tf.math.divide_no_nan(total, tf.cast(share, total.dtype)), 1 - share


def mean_over_labelled(values: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The mean over labelled samples; 0 where there are none.

    Args:
        values: ``[b]``, what each of this replica's samples loses.
        labels: int32 ``[b]``, -1 where a sample has none; it then gets no gradient.

    Returns:
        A scalar; the replicas' average to the mean over the labelled samples of the global batch.
    """
    is_labelled = labels >= 0
    ones = tf.cast(is_labelled, values.dtype)
    labelled, samples = global_sum([tf.reduce_sum(ones), tf.cast(tf.size(ones), values.dtype)])
    share = tf.math.divide_no_nan(labelled, samples)
    return tf.math.divide_no_nan(tf.reduce_mean(tf.where(is_labelled, values, 0)), share)
