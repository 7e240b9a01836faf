"""Gradient surgery: several tasks' gradients without what conflicts between them (PCGrad)."""

from __future__ import annotations

import tensorflow as tf


def without_conflicts(gradients: tf.Tensor) -> tf.Tensor:
    """Each task's gradient, projected onto the normal plane of every gradient it conflicts with.

    Yu et al., "Gradient surgery for multi-task learning", NeurIPS 2020, algorithm 1: for each
    task i and every other task j in turn, where ``g_i . g_j < 0``,
    ``g_i -= (g_i . g_j) / ||g_j||^2 g_j``, with g_j as it was at first. The paper takes the j in
    random order; here they come in the order of the tasks, so that a step can be repeated.

    Args:
        gradients: g, ``[T, n]``.

    Returns:
        ``[T, n]``; the update is their sum over tasks.
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
