"""Sums and batches over all replicas of a data-parallel step, with gradients.

Outside of a distribution strategy each function gives back what it was given.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

REPLICATED_STATE: dict[str, Any] = {
    "initializer": "zeros", "trainable": False, "autocast": False, "aggregation": "none",
}
"""Arguments of `add_weight` for state that each replica updates in a copy of its own, all alike."""


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


def _sizes(tensor: tf.Tensor) -> tf.Tensor:
    """How many rows each replica's tensor has, int32 ``[replicas]``."""
    place = tf.one_hot(_number(), count(), dtype=tf.int64)  # int32 stays on the host of a GPU
    return tf.cast(global_sum(place * tf.shape(tensor, tf.int64)[0]), tf.int32)


def _number() -> tf.Tensor:
    """Which of the replicas this one is."""
    return tf.convert_to_tensor(
        tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32
    )


def _all_rows(tensor: tf.Tensor, first: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """All replicas' rows one after the other, each put into its place among zeros and summed:
    TensorFlow 2.21's `all_gather` fails where a worker of several has a single device.

    Args:
        tensor: ``[b, ...]`` of numbers or truth values.
        first: the place of this replica's first row.
        rows: of all replicas.
    """
    # What cannot be summed everywhere: uint8 images, truth values.
    summed = tensor.dtype if tensor.dtype.is_floating else tf.int64
    padding = [[first, rows - first - tf.shape(tensor)[0]], *[[0, 0]] * (tensor.shape.rank - 1)]
    placed = tf.pad(tf.cast(tensor, summed), padding)
    context = tf.distribute.get_replica_context()
    return tf.cast(context.all_reduce(tf.distribute.ReduceOp.SUM, placed), tensor.dtype)


def gather(tensor: tf.Tensor, sizes: tf.Tensor | None = None) -> tf.Tensor:
    """The global batch on each replica: all replicas' tensors one after the other.

    Its gradient sums what all replicas send back for a replica's own rows. So where each replica
    computes the same loss of the global batch, that loss is to be divided by `count`.

    Args:
        tensor: ``[b, ...]``; b may differ between replicas and may be zero.
        sizes: the b of all replicas, int32, where they are known.

    Returns:
        ``[B, ...]``, B the sum of all b.
    """
    if count() == 1:
        return tensor
    sizes = _sizes(tensor) if sizes is None else sizes
    first = tf.reduce_sum(sizes[: _number()])

    @tf.custom_gradient
    def gathered(tensor: tf.Tensor):
        def grad(upstream: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            total = context.all_reduce(tf.distribute.ReduceOp.SUM, upstream)
            return total[first : first + tf.shape(tensor)[0]]

        return _all_rows(tensor, first, tf.reduce_sum(sizes)), grad

    return gathered(tensor)


def global_batch(tensors: Any, samples: tf.Tensor) -> Any:
    """All replicas' parts of a structure of tensors ``[b, ...]``, one after the other, with
    gradients (see `gather`).

    Args:
        tensors: this replica's part.
        samples: how many there are in all; more come where each replica was given the whole batch
            (see `never_empty`), and are left out, so that no sample is there twice.
    """
    if count() == 1:
        return tensors
    size = tf.cast(tf.round(samples), tf.int32)
    sizes = _sizes(tf.nest.flatten(tensors)[0])
    return tf.nest.map_structure(lambda part: gather(part, sizes)[:size], tensors)


def copies_of(data: Any) -> tf.Tensor | None:
    """How many devices were given the same batch, as data that were shared out between workers say
    (see `dataloader.training_batches`); None where they do not."""
    first = data[0] if isinstance(data, tuple) else data
    return first.get("copies") if isinstance(first, dict) else None


def never_empty(tensors: Any, copies: tf.Tensor | None = None) -> tuple[Any, tf.Tensor]:
    """This replica's part of a batch, and how much each of its samples counts.

    A last batch may have fewer samples than there are replicas. Some would have none, for which
    TensorFlow 2.21's oneDNN kernels give tensors of a wrong shape (convolution) or abort (gradient
    of max-pooling). So then each replica gets the whole batch, in which a sample counts for 1 /
    `count`. Synchronised batch statistics stay what they are, as all samples count alike.

    Args:
        tensors: a structure of ``[b, ...]``; b may be zero.
        copies: where that is done already, to how many replicas the same batch was given.

    Returns:
        The structure, and a float32 scalar: 1 unless the whole batch is given.
    """
    if copies is not None:
        return tensors, 1 / tf.cast(copies, tf.float32)
    if count() == 1 or tf.config.list_logical_devices("GPU"):
        return tensors, tf.constant(1.0)
    sizes = _sizes(tf.nest.flatten(tensors)[0])
    is_scarce = tf.reduce_min(sizes) == 0

    def chosen(tensor: tf.Tensor) -> tf.Tensor:
        whole = gather(tensor, sizes)  # not within the condition, where no sums can be made
        some = tf.cond(is_scarce, lambda: whole, lambda: tensor)
        return tf.ensure_shape(some, [None, *tensor.shape[1:]])

    return tf.nest.map_structure(chosen, tensors), tf.where(is_scarce, 1 / count(), 1.0)
