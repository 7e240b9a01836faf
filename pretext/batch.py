"""Batches of one replica or of all, and the random numbers of their views."""

from __future__ import annotations

import enum
import zlib
from typing import Any, NamedTuple

import tensorflow as tf

from op_util.draws import uniform_draws
from registry import UserError


class Batch(NamedTuple):
    """Raw images ``[B, H, W, C]`` in 0..255 and their int64 indices in the data ``[B]``."""

    image: tf.Tensor
    index: tf.Tensor


class Use(enum.IntEnum):
    """What views are used for. Each use gets different views of an image."""

    TRAINING = 0
    HELD_OUT = 1
    MEASURING = 2


def as_batch(data: Any) -> Batch:
    """Convert a dict with ``image`` and ``index`` to a `Batch`.

    Raises:
        UserError: `data` is no such dict.
    """
    if not isinstance(data, dict) or not {"image", "index"} <= data.keys():
        raise UserError(
            "batches must be dicts with 'image' and 'index' (each image's position in the data)"
        )
    return Batch(data["image"], tf.cast(data["index"], tf.int64))


def draws(
    task: str, use: Use, seed: int, epoch: Any, index: tf.Tensor, count: int
) -> tf.Tensor:
    """Random numbers for a task's views, float32 ``[B, count]`` in [0, 1).

    They depend on the task's name, so it has the same views whatever other tasks it is trained
    with, and on the image's index, so they do not depend on batch, replica or restarts.
    """
    stream = len(Use) * zlib.crc32(task.encode()) + use
    return uniform_draws(seed, stream, epoch, index, count)
