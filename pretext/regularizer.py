"""What every regularizer is: a loss between the embeddings that the tasks have of one image."""

from __future__ import annotations

from typing import ClassVar

import tensorflow as tf

from plugins import Plugin


class Regularizer(Plugin):
    """A regularizer. Its fields are its hyper-parameters.

    Attributes:
        least_tasks: how many tasks it needs.
        acts: whether it does anything.
    """

    least_tasks: ClassVar[int] = 2
    acts: ClassVar[bool] = True

    def __call__(self, embeddings: tf.Tensor) -> tf.Tensor:
        """The loss, a float32 scalar, mean over the batch.

        Args:
            embeddings: e, float32 ``[B, T, width]`` of length 1, of the global batch, as images
                depend on each other. So all replicas compute the same, and the caller divides it by
                their number.
        """
        raise NotImplementedError
