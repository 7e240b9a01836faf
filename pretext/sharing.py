"""Which tasks an image takes part in, where each takes part in only some of them.

A step of T tasks then costs what a step of a few does. The tasks of an image are drawn anew in each
epoch, so that over the epochs each image takes part in all of them, and the temporal memory of each
task fills up.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from op_util.draws import uniform_draws

_STREAM = zlib.crc32(b"tasks of an image")


class Share(NamedTuple):
    """The images of a batch that take part in a task.

    Attributes:
        rows: their places in the batch, int32 ``[b]``, b at least 1: if no image takes part, the
            first one stands in, because some kernels fail on an empty batch.
        count: how many take part, an int32 scalar; the first of `rows`.
    """

    rows: tf.Tensor
    count: tf.Tensor


def drawn_tasks(seed: int, epoch: Any, index: tf.Tensor, tasks: int, per_image: int) -> tf.Tensor:
    """Which tasks each image takes part in, all subsets being equally likely.

    A function of the arguments alone, as the numbers of the views are: the same on any number of
    devices and after a restart.

    Args:
        seed: of the run.
        epoch: an integer scalar.
        index: int64 ``[B]``, the images' places in the data.
        tasks: T.
        per_image: n, from 1 to T.

    Returns:
        int32 ``[B, n]``, numbers of tasks in ascending order.
    """
    uniform = uniform_draws(seed, _STREAM, epoch, index, tasks)
    return tf.sort(tf.argsort(uniform, axis=1, stable=True)[:, :per_image], axis=1)


def shares(drawn: tf.Tensor, tasks: int) -> list[Share]:
    """Each task's images.

    Args:
        drawn: of `drawn_tasks`, int32 ``[B, n]``.
        tasks: T.
    """
    found = []
    for task in range(tasks):
        rows = tf.where(tf.reduce_any(drawn == task, axis=1))[:, 0]
        count = tf.size(rows)
        stand_in = tf.zeros([tf.maximum(0, 1 - count)], rows.dtype)
        found.append(Share(tf.cast(tf.concat([rows, stand_in], axis=0), tf.int32), count))
    return found


def by_image(vectors: Sequence[tf.Tensor], shared: Sequence[Share], per_image: int) -> tf.Tensor:
    """Each image's vectors of the tasks that it takes part in, in the order of the tasks.

    Args:
        vectors: of each task, ``[b, width]``, as many as its share has rows.
        shared: of `shares`.
        per_image: n.

    Returns:
        ``[B, n, width]``.
    """
    present = [vector[: share.count] for vector, share in zip(vectors, shared, strict=True)]
    places = [
        len(shared) * share.rows[: share.count] + task for task, share in enumerate(shared)
    ]
    ordered = tf.gather(tf.concat(present, axis=0), tf.argsort(tf.concat(places, axis=0)))
    return tf.reshape(ordered, [-1, per_image, vectors[0].shape[-1]])


def at_least_one(tensor: tf.Tensor) -> tf.Tensor:
    """``tensor [b, ...]``, or one row of zeros where b is 0."""
    missing = tf.maximum(0, 1 - tf.shape(tensor)[0])
    return tf.pad(tensor, [[0, missing], *[[0, 0]] * (tensor.shape.rank - 1)])
