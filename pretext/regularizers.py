"""Metric-based regularization: losses between the embeddings that the tasks have of one image."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from op_util.metric_learning import relational_loss, triplet_loss
from registry import Registry, UserError

REGULARIZERS = Registry("regularizer")


class Regularizer:
    """A regularizer; its fields are its hyper-parameters.

    Attributes:
        least_tasks: how many tasks it needs.
        acts: whether it does anything.
    """

    least_tasks = 2
    acts = True

    def __call__(self, embeddings: tf.Tensor) -> tf.Tensor:
        """The loss, a float32 scalar, mean over the batch.

        Args:
            embeddings: e, float32 ``[B, T, width]`` of length 1, of the global batch: images
                depend on each other. Several replicas thus compute the same, which the caller
                divides by their number.
        """
        raise NotImplementedError


@REGULARIZERS.register("triplet")
@dataclasses.dataclass(frozen=True)
class Triplet(Regularizer):
    """See `op_util.metric_learning.triplet_loss`.

    Args:
        margin: of squared distances (FaceNet's 0.2).
    """

    margin: float = 0.2

    def __post_init__(self) -> None:
        if not self.margin >= 0:
            raise UserError(f"triplet: margin must be at least 0, not {self.margin}")

    def __call__(self, embeddings: tf.Tensor) -> tf.Tensor:
        return triplet_loss(embeddings, self.margin)


@REGULARIZERS.register("relational")
@dataclasses.dataclass(frozen=True)
class Relational(Regularizer):
    """See `op_util.metric_learning.relational_loss`."""

    def __call__(self, embeddings: tf.Tensor) -> tf.Tensor:
        return relational_loss(embeddings)


@REGULARIZERS.register("none")
@dataclasses.dataclass(frozen=True)
class NoRegularizer(Regularizer):
    """No regularization."""

    least_tasks = 1
    acts = False

    def __call__(self, embeddings: tf.Tensor) -> tf.Tensor:
        return tf.constant(0.0)


def create(name: str, tasks: int, **hyper_parameters: Any) -> Regularizer:
    """The regularizer `name` for so many tasks.

    Raises:
        UserError: unknown name, or more tasks are needed.
    """
    regularizer = REGULARIZERS.get(name)(**hyper_parameters)
    if tasks < regularizer.least_tasks:
        raise UserError(
            f"regularizer {REGULARIZERS.name(name)} compares tasks and needs at least "
            f"{regularizer.least_tasks}, not {tasks}: name more tasks, or give --regularizer none"
        )
    return regularizer
