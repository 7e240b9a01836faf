"""Gradient surgery (PCGrad): remove the conflicting components of several tasks' gradients."""

from __future__ import annotations

import tensorflow as tf


def without_conflicts(gradients: tf.Tensor) -> tf.Tensor:
    """Project each task's gradient onto the normal plane of every gradient it conflicts with.

    Yu et al., "Gradient surgery for multi-task learning", NeurIPS 2020, algorithm 1: for each
    task i and every other task j in turn, if ``g_i . g_j < 0``, then
    ``g_i -= (g_i . g_j) / ||g_j||^2 g_j`` with the original g_j. The paper visits the j in random
    order; here they are visited in the order of the tasks, to keep steps reproducible.

    Args:
        gradients: g, ``[T, n]``.

    Returns:
        The projected gradients, ``[T, n]``. The update is their sum over tasks.
    """
    originals = tf.unstack(gradients)
    squares = [tf.reduce_sum(each * each) for each in originals]
    projected = []
    for i, gradient in enumerate(originals):
        for j, other in enumerate(originals):
            if j != i:
                product = tf.minimum(tf.reduce_sum(gradient * other), 0)
                gradient -= tf.math.divide_no_nan(product, squares[j]) * other
        projected.append(gradient)
    return tf.stack(projected)
