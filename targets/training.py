"""Short training runs for target tasks: a loss, its variables, a fixed number of steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

import dataloader


class Trainer:
    """Minimises a loss with Adam, its learning rate decayed to zero along a cosine.

    Each call of `train` starts again from the same initial values.

    Args:
        loss: takes a batch's tensors and returns a scalar.
        trained: the variables to train.
        state: other variables that the loss updates (moving statistics).
        steps: steps of each training run.
    """

    def __init__(
        self,
        loss: Callable[..., tf.Tensor],
        trained: Sequence[keras.Variable],
        state: Sequence[keras.Variable],
        steps: int,
    ):
        self._loss, self._trained, self._steps = loss, list(trained), steps
        self._optimizer = keras.optimizers.Adam()
        self._optimizer.build(self._trained)
        changed = [*self._trained, *state, *self._optimizer.variables]
        self._start = [(variable, tf.identity(variable.value)) for variable in changed]
        self._step = tf.function(self._one_step, autograph=False, reduce_retracing=True)

    def _one_step(self, *batch: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(*batch)
        gradients = tape.gradient(loss, [variable.value for variable in self._trained])
        self._optimizer.apply(gradients, self._trained)
        return loss

    def train(self, batches: Iterable[tuple[tf.Tensor, ...]], learning_rate: float) -> float:
        """Reset the variables to their initial values and train on the first `steps` batches.

        Args:
            batches: at least one.
            learning_rate: the initial learning rate.

        Returns:
            The loss of the last batch.
        """
        for variable, value in self._start:
            variable.assign(value)
        for step, batch in enumerate(itertools.islice(batches, self._steps)):
            rate = learning_rate * (1 + math.cos(math.pi * step / self._steps)) / 2
            self._optimizer.learning_rate.assign(rate)
            loss = self._step(*batch)
        return float(loss)


def labelled_batches(
    split: dataloader.Split, batch_size: int, *, steps: int, seed: int, flip: bool
) -> Iterable[tuple[tf.Tensor, tf.Tensor]]:
    """Shuffled batches of (image, label), `steps` of them.

    Images are shifted at random by up to a sixteenth of their shorter side, and mirrored at random
    if `flip`.

    Args:
        split: at least one image. An epoch is cut into batches of about equal size, as few as hold
            at most `batch_size` images each: a rest of one or two images would be a step like any
            other.
    """
    size = math.ceil(len(split) / dataloader.steps_per_epoch(split, min(batch_size, len(split))))
    batches = dataloader.training_batches(
        split,
        size,
        seed=seed,
        epochs=-(-steps // dataloader.steps_per_epoch(split, size)),
        augmentation=dataloader.Augmentation(flip, 0.0, min(split.image_shape[:2]) // 16),
    )

    @tf.autograph.experimental.do_not_convert
    def pair(batch: dict[str, Any]) -> tuple[tf.Tensor, tf.Tensor]:
        return batch["image"], batch["label"]

    return batches.take(steps).map(pair)
