"""The memory of the temporal ensemble: each training image's embeddings, averaged over time."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from op_util.temporal_ensemble import ensemble, mean_per_image, updated
from replicas import REPLICATED_STATE

DTYPES = ("float32", "float16")


def memory_bytes(
    images: int, tasks: int, width: int, storage: str = "float32", shared: bool = False
) -> int:
    """The size of a `TemporalMemory` in bytes, counts of updates included."""
    numbers = np.dtype(storage).itemsize * tasks * width
    return images * (numbers + np.dtype("int64").itemsize * (tasks if shared else 1))


class TemporalMemory(keras.layers.Layer):
    """The tasks' embeddings of each training image, averaged over time (`op_util.temporal_ensemble`
    has the formulas).

    Under a distribution strategy each replica holds the whole memory and makes the same updates to
    it, those of the global batch, so an image's row is found by its index whichever replica sees
    it.

    Args:
        images: how many training images there are; their indices are 0 to ``images - 1``.
        tasks, width: T and the width of the embeddings.
        decay: a, from 0 to below 1.
        storage: ``"float32"`` or ``"float16"``, in which the memory is held; float16 rounds
            numbers below 1 by up to 2.4e-4. Computation is in float32.
        shared: whether an image takes part in some of the tasks only, so that each task counts its
            updates of an image; otherwise one count serves all tasks.
    """

    def __init__(
        self,
        images: int,
        tasks: int,
        width: int,
        decay: float = 0.6,
        storage: str = "float32",
        shared: bool = False,
        name: str = "temporal_memory",
    ):
        super().__init__(dtype="float32", name=name)
        self.decay = decay
        self.memory = self.add_weight(
            shape=(images, tasks, width), dtype=storage, name="memory", **REPLICATED_STATE
        )
        # int64, as TensorFlow has no gathering from int32 variables on GPUs.
        shape = (images, tasks) if shared else (images,)
        self.updates = self.add_weight(
            shape=shape, dtype="int64", name="updates", **REPLICATED_STATE
        )
        self.built = True

    def read(self, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The ensemble over time and tasks of some images, before what this step adds to it.

        Args:
            index: integers ``[B]``, in any order, repeated or not.

        Returns:
            Z, float32 ``[B, width]`` of length 1, and bool ``[B]``, whether an image has been seen
            before. Z is zero where it has not.
        """
        rows = tf.cast(tf.gather(self.memory.value, index), tf.float32)
        times = tf.gather(self.updates.value, index)
        times = times if times.shape.rank == 2 else times[:, None]
        return ensemble(rows, times, self.decay), tf.reduce_any(times > 0, axis=1)

    def update(
        self, index: tf.Tensor, embeddings: tf.Tensor, tasks: tf.Tensor | None = None
    ) -> None:
        """Put a batch's embeddings into the memory; an image that comes twice is averaged, and
        counts once.

        Args:
            index: integers ``[B]``.
            embeddings: e, float32 ``[B, T, width]``; of the global batch, like `index`, where there
                are several replicas. ``[B, n, width]`` where an image takes part in n tasks.
            tasks: which tasks these are, int32 ``[B, n]``, for a memory that is shared; None: all.
        """
        memory, updates = self.memory.value, self.updates.value
        rows = tf.cast(tf.gather(memory, index), tf.float32)
        times = tf.gather(updates, index)
        embeddings = mean_per_image(tf.stop_gradient(embeddings), index)
        if tasks is None:
            new, more = updated(rows, embeddings, self.decay), 1
        else:
            chosen = tf.one_hot(tasks, memory.shape[1])  # [B, n, T]
            # A sum, as a GPU may round matrix products.
            placed = tf.reduce_sum(chosen[..., None] * embeddings[:, :, None], axis=1)
            is_new = tf.reduce_any(chosen > 0, axis=1)
            new = tf.where(is_new[..., None], updated(rows, placed, self.decay), rows)
            more = tf.cast(is_new, times.dtype)
        # An image of which an embedding is zero or not finite, as where images or weights are not
        # finite, keeps what it has.
        lengths = tf.reduce_max(tf.abs(embeddings), axis=-1)
        known = tf.reduce_all(tf.math.is_finite(lengths) & (lengths > 0), axis=1)
        new = tf.where(known[:, None, None], new, rows)
        more *= tf.cast(known if tasks is None else known[:, None], times.dtype)
        for variable, value in ((memory, tf.cast(new, memory.dtype)), (updates, times + more)):
            variable.scatter_update(tf.IndexedSlices(value, index))
