"""Sums and batches over all replicas of a data-parallel step, with gradients.

Outside of a distribution strategy each function gives back what it was given.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def count() -> int:
    """How many replicas take part in the step."""
    context = tf.distribute.get_replica_context()
    return context.num_replicas_in_sync if context is not None else 1


def global_sum(value: Any) -> Any:
    """The sum over all replicas, without a gradient. Tensors, or a list of them."""
    if count() == 1:
        return tf.nest.map_structure(tf.stop_gradient, value)
    value = tf.nest.map_structure(tf.stop_gradient, value)
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def global_sum_present(gradients: list[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """`global_sum` of a list in which some gradients are None, in the same places everywhere."""
    summed = iter(global_sum([gradient for gradient in gradients if gradient is not None]))
    return [None if gradient is None else next(summed) for gradient in gradients]


def gather(tensor: tf.Tensor) -> tf.Tensor:
    """The global batch on each replica: all replicas' tensors one after the other.

    Its gradient sums what all replicas send back for a replica's own rows. So where each replica
    computes the same loss of the global batch, that loss is to be divided by `count`.

    Args:
        tensor: ``[b, ...]``; b may differ between replicas and may be zero.

    Returns:
        ``[B, ...]``, B the sum of all b.
    """
    if count() == 1:
        return tensor
    context = tf.distribute.get_replica_context()
    sizes = tf.stop_gradient(context.all_gather(tf.shape(tensor)[:1], axis=0))
    first = tf.reduce_sum(sizes[: context.replica_id_in_sync_group])

    @tf.custom_gradient
    def gathered(tensor: tf.Tensor):
        def grad(upstream: tf.Tensor) -> tf.Tensor:
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, upstream)
            return total[first : first + tf.shape(tensor)[0]]

        return context.all_gather(tensor, axis=0), grad

    return gathered(tensor)
