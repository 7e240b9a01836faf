"""GradNorm: weights of tasks by which none outweighs the others in what they share.

Chen et al., "GradNorm: gradient normalization for adaptive loss balancing", ICML 2018.
"""

from __future__ import annotations

import tensorflow as tf


def weights(
    norms: tf.Tensor, losses: tf.Tensor, first_losses: tf.Tensor, asymmetry: float
) -> tf.Tensor:
    """The weights at which each task's gradient has the norm that GradNorm wants it to have.

    With ``g_t = ||gradient of L_t||`` that norm is, up to a factor common to all tasks, ``r_t^alpha
    = (w_t g_t)``, where ``r_t`` is the share of its first loss that a task still has, divided by
    the mean of these shares over tasks: who learns slowly may pull harder (section 3.2 of the
    paper). The paper gets there by gradient steps on ``sum_t |w_t g_t - mean(w g) r_t^alpha|``
    (equation 2), one with each training step; as the norms are measured only now and then, the
    equation is solved instead.

    Args:
        norms: g, ``[T]``, of the tasks' losses without weights.
        losses, first_losses: ``[T]``, now and at the beginning.
        asymmetry: alpha; 0: all norms equal.

    Returns:
        float32 ``[T]`` of sum T. A task whose gradient or first loss is zero or not finite gets the
        mean weight, 1.
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
    """From weights `old` by the share `rate`, in (0, 1], of the way to `new`: measured on one
    batch, norms are noisy. The sum stays."""
    return old + rate * (new - old)
