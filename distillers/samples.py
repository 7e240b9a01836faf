"""Sums and means over the valid or labelled samples of the global batch."""

from __future__ import annotations

import tensorflow as tf

from replicas import global_sum


def sum_over_good(values: tf.Tensor, good: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum of the good samples' values times ``B / good``, as if no samples were dropped.

    Args:
        values: ``[b]``, the losses of this replica's samples.
        good: ``[b]``, which samples count; the others get no gradient. B and the number of good
            samples are taken over all replicas.

    Returns:
        The sum, a scalar, and the share of dropped samples.
    """
    ones = tf.cast(good, tf.float32)
    share = tf.math.divide_no_nan(
        *global_sum([tf.reduce_sum(ones), tf.cast(tf.size(ones), tf.float32)])
    )
    total = tf.reduce_sum(tf.where(good, values, 0))
    return tf.math.divide_no_nan(total, tf.cast(share, total.dtype)), 1 - share


def mean_over_labelled(values: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The mean over labelled samples; 0 if there are none.

    Args:
        values: ``[b]``, the losses of this replica's samples.
        labels: int32 ``[b]``; samples with label -1 are unlabelled and get no gradient.

    Returns:
        A scalar. Its average over replicas is the mean over the global batch's labelled samples.
    """
    is_labelled = labels >= 0
    ones = tf.cast(is_labelled, values.dtype)
    labelled, samples = global_sum([tf.reduce_sum(ones), tf.cast(tf.size(ones), values.dtype)])
    share = tf.math.divide_no_nan(labelled, samples)
    return tf.math.divide_no_nan(tf.reduce_mean(tf.where(is_labelled, values, 0)), share)
