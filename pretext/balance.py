"""How the tasks' losses, which have different units, are brought to one size before they are added.

A balance is asked in every step for the tasks' factors. It keeps what it knows in its weights, so
that checkpoints hold it.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from op_util import gradnorm
from registry import Registry

_BALANCES = Registry("balance")
_LEAST = 1e-8  # a loss below it is taken for this one


def names() -> list[str]:
    """Names of all balances."""
    return _BALANCES.names()


def create(name: str, tasks: int, **hyper_parameters: Any) -> Balance:
    """The balance `name` of so many tasks. Raises `registry.UserError` for an unknown name."""
    return _BALANCES.get(name)(tasks, **hyper_parameters)


@_BALANCES.register("none")
class Balance(keras.layers.Layer):
    """Every loss as it is.

    Args:
        tasks: number of tasks.
    """

    interval = 0
    """Every how many steps `measured` is to be called; 0: never."""

    def __init__(self, tasks: int, **arguments: Any):
        super().__init__(dtype="float32", name="balance", **arguments)
        self.tasks = tasks
        self.built = True

    def factors(self, losses: tf.Tensor, images: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        """The factor of each loss in this step, float32 ``[T]``, without a gradient.

        Args:
            losses: float32 ``[T]``, the tasks' losses of the global batch in this step.
            images: float32 scalar, how many images that batch has.
            epoch: int32 scalar, from 0.
        """
        return self.current()

    def current(self) -> tf.Tensor:
        """The factors as of the last step, float32 ``[T]``."""
        return tf.ones([self.tasks])

    def measured(self, norms: tf.Tensor, losses: tf.Tensor) -> None:
        """Take note of each loss, float32 ``[T]``, and of its gradient's norm on the encoder,
        float32 ``[T]``, both without a factor. To be called between two steps."""

    def _state(self, name: str, shape: tuple[int, ...], initializer: str = "zeros") -> Any:
        # Not aggregated: each replica assigns to a copy of its own, and all assign the same.
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, trainable=False, aggregation="none"
        )


@_BALANCES.register("scale")
class Scale(Balance):
    """Each loss divided by its mean over the first epoch's images.

    During the first epoch it is divided by the mean so far, the step at hand included. Later the
    factors are constants: a running mean would give a solved task an ever larger weight.
    """

    def __init__(self, tasks: int, **arguments: Any):
        super().__init__(tasks, **arguments)
        self.loss_sums = self._state("loss_sums", (tasks,))
        self.images = self._state("images", ())

    def factors(self, losses: tf.Tensor, images: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
        counted = tf.where(tf.equal(epoch, 0), images, 0.0)
        sums = self.loss_sums.value + counted * tf.stop_gradient(losses)
        count = self.images.value + counted
        self.loss_sums.assign(sums)
        self.images.assign(count)
        return self._of(sums, count)

    def current(self) -> tf.Tensor:
        return self._of(self.loss_sums.value, self.images.value)

    def _of(self, sums: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        # Before the first step losses stay as they are.
        means = tf.where(images > 0, sums / tf.maximum(images, 1.0), 1.0)
        return 1.0 / tf.maximum(means, _LEAST)


@_BALANCES.register("gradnorm")
class GradNorm(Balance):
    """Chen et al., "GradNorm: gradient normalization for adaptive loss balancing in deep multitask
    networks", ICML 2018, measured now and then.

    Instead of by a gradient step in each step of training, the factors are moved every `interval`
    steps towards those by which the norms would be as wanted (see `op_util.gradnorm`).

    Args:
        tasks: number of tasks.
        asymmetry: the paper's alpha: 0 makes all norms equal, above that tasks that learn more
            slowly get larger ones.
        interval: steps between two measurements.
        rate: how far the factors go at each, in (0, 1].
    """

    def __init__(
        self,
        tasks: int,
        asymmetry: float = 0.0,
        interval: int = 20,
        rate: float = 0.3,
        **arguments: Any,
    ):
        super().__init__(tasks, **arguments)
        self.asymmetry = asymmetry
        self.interval, self.rate = interval, rate
        self.wanted = self._state("factors", (tasks,), "ones")
        self.first_losses = self._state("first_losses", (tasks,))

    def current(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.wanted.value)

    def measured(self, norms: tf.Tensor, losses: tf.Tensor) -> None:
        first_losses = tf.convert_to_tensor(self.first_losses.value)
        is_first = tf.reduce_all(first_losses == 0)
        first_losses = tf.where(is_first, losses, first_losses)
        self.first_losses.assign(first_losses)
        wanted = gradnorm.weights(norms, losses, first_losses, self.asymmetry)
        self.wanted.assign(
            wanted if is_first else gradnorm.moved(self.current(), wanted, self.rate)
        )
