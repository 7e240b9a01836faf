"""The base class of regularizers: losses between the tasks' embeddings of the same image."""

from __future__ import annotations

from typing import ClassVar

import tensorflow as tf

from plugins import Plugin


class Regularizer(Plugin):
    """A regularizer. Its fields are its hyper-parameters.

    Attributes:
        least_tasks: the smallest number of tasks it works with.
        needs_all_tasks: whether it compares a task's embeddings of different images, which then
            have to take part in the same tasks.
        acts: whether it has any effect.
    """

    least_tasks: ClassVar[int] = 2
    needs_all_tasks: ClassVar[bool] = False
    acts: ClassVar[bool] = True

    def __call__(self, embeddings: tf.Tensor) -> tf.Tensor:
        """The loss, averaged over the batch, a float32 scalar.

        Args:
            embeddings: e, float32 ``[B, T, width]`` of length 1 (or ``[B, n, width]``: of the n
                tasks that each image takes part in, in their order), of the global batch, because
                the loss can compare images with each other. All replicas compute the same loss, and
                the caller divides it by their number.
        """
        raise NotImplementedError
