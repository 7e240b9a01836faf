"""Each loss divided by its mean over the first epoch."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from pretext.balance import Balance, Step, Weighting
from pretext.registration import BALANCES

_LEAST = 1e-8  # smaller means count as this


def scale_factors(loss_sums: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
    """``1 / mean loss`` of each task, float32 ``[T]``; 1 before the first image.

    Args:
        loss_sums: sums of the losses over images, float32 ``[T]``.
        images: how many took part in each, float32 ``[T]``.
    """
    means = tf.where(images > 0, loss_sums / tf.maximum(images, 1.0), 1.0)
    return 1.0 / tf.maximum(means, _LEAST)


@BALANCES.register("scale")
class Scale(Balance):
    """Each loss divided by its mean over the first epoch's images.

    During the first epoch a loss is divided by its mean so far, the current step included. Later
    the factors stay: a running mean would give a solved task an ever larger weight.
    """

    def build(self, tasks: int, seed: int) -> Weighting:
        return ScaleWeighting(tasks)


class ScaleWeighting(Weighting):
    """The sums of the losses over the first epoch."""

    def __init__(self, tasks: int, **arguments: Any):
        super().__init__(tasks, **arguments)
        self.loss_sums = self.state("loss_sums", (tasks,))
        self.images = self.state("images", (tasks,))

    def factors(self, losses: tf.Tensor, step: Step) -> tf.Tensor:
        counted = tf.where(tf.equal(step.epoch, 0), step.images, 0.0)
        sums = self.loss_sums.value + counted * losses
        count = self.images.value + counted
        self.loss_sums.assign(sums)
        self.images.assign(count)
        return scale_factors(sums, count)

    def current(self) -> tf.Tensor:
        return scale_factors(self.loss_sums.value, self.images.value)
