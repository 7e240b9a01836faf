"""Sums and batches over all replicas of a data-parallel step, with gradients.

Outside of a distribution strategy each function gives back what it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def global_batch(tensors: Any, samples: tf.Tensor) -> Any:
    """All replicas' parts of a structure of tensors ``[b, ...]``, one after the other, with
    gradients (see `gather`).

    Args:
        tensors: this replica's part.
        samples: how many there are in all; more come where each replica was given the whole batch
            (see `never_empty`), and are left out, so that no sample is there twice.
    """
    size = tf.cast(tf.round(samples), tf.int32)
    return tf.nest.map_structure(lambda part: gather(part)[:size], tensors)


def apply_summed(
    optimizer: Any, gradients: Sequence[tf.Tensor | None], variables: Sequence[Any]
) -> None:
    """Update `variables` with gradients that are summed over replicas already, though Keras'
    optimizers sum what they get once more. A variable whose gradient is None stays as it is."""
    optimizer.apply_gradients(
        (gradient / count(), variable)
        for gradient, variable in zip(gradients, variables, strict=True)
        if gradient is not None
    )


def never_empty(tensors: Any) -> tuple[Any, tf.Tensor]:
    """This replica's part of a batch, and how much each of its samples counts.

    A last batch may have fewer samples than there are replicas. Some would have none, for which
    TensorFlow 2.21's oneDNN kernels give tensors of a wrong shape (convolution) or abort (gradient
    of max-pooling). So then each replica gets the whole batch, in which a sample counts for 1 /
    `count`. Synchronised batch statistics stay what they are, as all samples count alike.

    Args:
        tensors: a structure of ``[b, ...]``; b may be zero.

    Returns:
        The structure, and a float32 scalar: 1 unless the whole batch is given.
    """
    if count() == 1 or tf.config.list_logical_devices("GPU"):
        return tensors, tf.constant(1.0)
    gather_all = tf.distribute.get_replica_context().all_gather
    sizes = gather_all(tf.shape(tf.nest.flatten(tensors)[0])[:1], axis=0)
    is_scarce = tf.reduce_min(sizes) == 0

    def chosen(tensor: tf.Tensor) -> tf.Tensor:
        whole = gather_all(tensor, axis=0)
        some = tf.cond(is_scarce, lambda: whole, lambda: tensor)
        return tf.ensure_shape(some, [None, *tensor.shape[1:]])

    return tf.nest.map_structure(chosen, tensors), tf.where(is_scarce, 1 / count(), 1.0)
