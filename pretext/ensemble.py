"""The base classes of ensembles: a loss that ties the tasks together over time, or mean weights.

An ensemble is an immutable `plugins.Plugin`. `Ensemble.build` returns its state, a layer. In every
step the model asks this layer for a loss and notifies it after the update; for evaluation, the
layer provides the weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from plugins import Plugin


@dataclasses.dataclass(frozen=True)
class Run:
    """What an ensemble knows about its run.

    Attributes:
        images: number of training images; their indices are 0 to ``images - 1``.
        tasks: number of tasks T.
        width: width of the tasks' embeddings.
        epochs: number of epochs of the whole run.
        variables: all trained variables.
        tasks_per_image: n, how many tasks an image takes part in at a step; None: in all.
    """

    images: int
    tasks: int
    width: int
    epochs: int
    variables: Sequence[keras.Variable] = ()
    tasks_per_image: int | None = None

    @property
    def shared(self) -> bool:
        """Whether an image takes part in some of the tasks only."""
        return self.tasks_per_image is not None and self.tasks_per_image < self.tasks


class EnsembleState(keras.layers.Layer):
    """The state of an ensemble in one run. This one does nothing.

    Attributes:
        metrics_of_steps: names of the metrics that `loss` returns.
        adds_loss: whether the model calls `loss`.
    """

    metrics_of_steps: tuple[str, ...] = ()
    adds_loss: bool = False

    def __init__(self, name: str = "ensemble", **arguments: Any):
        super().__init__(dtype="float32", name=name, **arguments)
        self.built = True

    def loss(
        self,
        embeddings: tf.Tensor,
        index: tf.Tensor,
        epoch: tf.Tensor,
        tasks: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The weighted loss of a step, a float32 scalar, and metrics to log.

        Args:
            embeddings: e, float32 ``[B, T, width]`` of length 1, of the global batch; ``[B, n,
                width]`` if an image takes part in n tasks.
            index: the indices of these images, int64 ``[B]``.
            epoch: an int32 scalar, counted from 0.
            tasks: the tasks that each image takes part in, int32 ``[B, n]``; None: all tasks.
        """
        return tf.constant(0.0), {}

    def end_step(self) -> None:
        """Called after the weights have been updated."""

    def metrics_of_epoch(self, epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        """Metrics to log for an epoch."""
        return {}

    def applied(self) -> contextlib.AbstractContextManager[None]:
        """Within this context the model holds the weights to evaluate and export."""
        return contextlib.nullcontext()


class Ensemble(Plugin):
    """An ensemble. Its fields are its hyper-parameters.

    Attributes:
        least_tasks: the smallest number of tasks it works with.
        acts: whether it has any effect.
    """

    least_tasks: ClassVar[int] = 1
    acts: ClassVar[bool] = True

    def build(self, run: Run) -> EnsembleState:
        """The ensemble's state at the start of a run."""
        raise NotImplementedError

    def memory_bytes(self, run: Run) -> int:
        """Memory for per-image state, in bytes on each device, summed over all training images."""
        return 0
