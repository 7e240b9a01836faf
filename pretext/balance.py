"""What every balance is: how losses of different units and sizes become one sum.

A balance is an immutable `plugins.Plugin`. `Balance.build` gives its state: a layer that the model
asks for the losses' factors in every step, and whose weights are in the checkpoints.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import keras
import tensorflow as tf

from plugins import Plugin


class Step(NamedTuple):
    """A step of training.

    Attributes:
        number: of the step from the start of training, an int64 scalar, from 0.
        epoch: an int32 scalar, from 0.
        images: of the global batch that take part in each task, float32 ``[T]``.
    """

    number: tf.Tensor
    epoch: tf.Tensor
    images: tf.Tensor


class Weighting(keras.layers.Layer):
    """The state of a balance in one run. This one leaves every loss as it is.

    Args:
        tasks: number of tasks T.

    Attributes:
        interval: `measured` is called before the first step and after every `interval` steps; 0:
            never.
        combines_gradients: whether `combined` replaces the sum of the tasks' gradients on the
            encoder.
    """

    interval: int = 0
    combines_gradients: bool = False

    def __init__(self, tasks: int, **arguments: Any):
        super().__init__(dtype="float32", name="balance", **arguments)
        self.tasks = tasks
        self.built = True

    def factors(self, losses: tf.Tensor, step: Step) -> tf.Tensor:
        """The factor of each loss in this step, float32 ``[T]``. A gradient flows through it only
        into weights of this layer.

        Args:
            losses: the tasks' losses of the global batch, float32 ``[T]``, without a gradient.
            step: which step it is.
        """
        return self.current()

    def current(self) -> tf.Tensor:
        """The factors as of the last step, float32 ``[T]``."""
        return tf.ones([self.tasks])

    def penalty(self) -> tf.Tensor:
        """What is added to the weighted sum of the losses, a float32 scalar."""
        return tf.constant(0.0)

    def measured(self, norms: tf.Tensor, losses: tf.Tensor) -> None:
        """Take note of a measurement between two steps.

        Args:
            norms: of the losses' gradients on the encoder, without factors, float32 ``[T]``.
            losses: without factors, float32 ``[T]``.
        """

    def combined(self, gradients: tf.Tensor) -> tf.Tensor:
        """The gradient on the encoder, float32 ``[n]``, of the tasks' gradients on it.

        Args:
            gradients: of the weighted losses of the global batch, float32 ``[T, n]``.
        """
        return tf.reduce_sum(gradients, axis=0)

    def state(self, name: str, shape: tuple[int, ...], initializer: str = "zeros") -> Any:
        """A new float32 weight that is not trained."""
        # Not aggregated: each replica assigns to a copy of its own, and all assign the same.
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, trainable=False, aggregation="none"
        )


class Balance(Plugin):
    """A balance. Its fields are its hyper-parameters.

    Attributes:
        least_tasks: how many tasks it needs.
    """

    least_tasks: ClassVar[int] = 1

    def build(self, tasks: int, seed: int) -> Weighting:
        """Its state at the start of a run.

        Args:
            tasks: number of tasks.
            seed: of random numbers.
        """
        raise NotImplementedError
