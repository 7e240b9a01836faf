"""What every ensemble is: a loss that ties the tasks together over time, or an average of weights.

An ensemble is an immutable `plugins.Plugin`. `Ensemble.build` gives its state: a layer that the
model asks for a loss in every step, tells when a step is done, and asks for the weights to
evaluate.
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
    """What an ensemble knows of the run that it takes part in.

    Attributes:
        images: how many training images there are; their indices are 0 to ``images - 1``.
        tasks: number of tasks T.
        width: of the tasks' embeddings.
        epochs: of the whole run.
        variables: all that are trained.
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
        metrics_of_steps: names of what `loss` logs.
        adds_loss: whether `loss` is called.
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
        """The weighted loss of a step, a float32 scalar, and what to log.

        Args:
            embeddings: e, float32 ``[B, T, width]`` of length 1, of the global batch; ``[B, n,
                width]`` where an image takes part in n tasks.
            index: of these images, int64 ``[B]``.
            epoch: an int32 scalar, from 0.
            tasks: which tasks an image takes part in, int32 ``[B, n]``; None: in all.
        """
        return tf.constant(0.0), {}

    def end_step(self) -> None:
        """Called after the weights were updated."""

    def metrics_of_epoch(self, epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        """What to log of an epoch."""
        return {}

    def applied(self) -> contextlib.AbstractContextManager[None]:
        """Within this context the trained weights are those to evaluate and export."""
        return contextlib.nullcontext()


class Ensemble(Plugin):
    """An ensemble. Its fields are its hyper-parameters.

    Attributes:
        least_tasks: how many tasks it needs.
        acts: whether it does anything.
    """

    least_tasks: ClassVar[int] = 1
    acts: ClassVar[bool] = True

    def build(self, run: Run) -> EnsembleState:
        """Its state at the start of a run."""
        raise NotImplementedError

    def memory_bytes(self, run: Run) -> int:
        """How much memory it takes for each training image, summed over all, on each device."""
        return 0
