"""GradNorm: task weights that balance the tasks' gradients on the shared encoder.

Chen et al., "GradNorm: gradient normalization for adaptive loss balancing", ICML 2018.
"""

from __future__ import annotations

import tensorflow as tf


def weights(
    norms: tf.Tensor, losses: tf.Tensor, first_losses: tf.Tensor, asymmetry: float
) -> tf.Tensor:
    """The weights that give each task's gradient the norm that GradNorm asks for.

    With ``g_t = ||gradient of L_t||``, this means ``w_t g_t = r_t^alpha`` up to a factor common to
    all tasks. ``r_t`` is the task's current loss relative to its first loss, divided by the mean of
    this ratio over tasks: tasks that learn slowly get larger gradients (section 3.2 of the paper).
    The paper takes a gradient step on ``sum_t |w_t g_t - mean(w g) r_t^alpha|`` (equation 2) in
    each training step. Here the norms are measured only from time to time, so the equation is
    solved directly.

    Args:
        norms: g, ``[T]``, of the gradients of the unweighted losses.
        losses, first_losses: ``[T]``, current and initial losses.
        asymmetry: alpha; 0 makes all norms equal.

    Returns:
        float32 ``[T]`` with sum T. A task whose gradient or first loss is zero or not finite gets
        the mean weight, 1.
    """
    norms, losses, first = (tf.cast(x, tf.float32) for x in (norms, losses, first_losses))
    usable = (norms > 0) & (first > 0) & tf.math.is_finite(norms + losses + first)
    number = tf.reduce_sum(tf.cast(usable, tf.float32))
    left = tf.where(usable, losses / tf.where(usable, first, 1), 0)
    rate = tf.math.divide_no_nan(left * number, tf.reduce_sum(left))
    wanted = tf.where(usable, tf.pow(rate, asymmetry) / tf.where(usable, norms, 1), 0)
    scaled = tf.math.divide_no_nan(wanted * number, tf.reduce_sum(wanted))
    return tf.where(usable & (tf.reduce_sum(wanted) > 0), scaled, 1)


def moved(old: tf.Tensor, new: tf.Tensor, rate: float) -> tf.Tensor:
    """Move the weights `old` towards `new` by the fraction `rate`, in (0, 1].

    The norms of one batch are noisy, hence the partial step. The sum of the weights is preserved.
    """
    return old + rate * (new - old)
