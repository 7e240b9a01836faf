"""GradNorm: choose factors that balance the norms of the tasks' gradients on the encoder."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from op_util import gradnorm
from plugins import option
from pretext.balance import Balance, Weighting
from pretext.registration import BALANCES


@BALANCES.register("gradnorm")
class GradNorm(Balance):
    """Chen et al., "GradNorm: gradient normalization for adaptive loss balancing in deep multitask
    networks", ICML 2018, with occasional measurements.

    The paper updates the factors with a gradient step in each training step. Here, every `interval`
    steps, they move towards the factors that give the desired norms (see `op_util.gradnorm`).

    Args:
        asymmetry: the paper's alpha. 0 makes all norms equal; above 0, tasks that learn more slowly
            get larger norms.
        interval: training steps between two measurements of the gradient norms.
        rate: how far the factors move at each measurement, as a share of the way.
    """

    paper = "Chen et al., ICML 2018, arXiv 1711.02257"

    asymmetry: float = option(0.0, minimum=0)
    interval: int = option(20, minimum=1)
    rate: float = option(0.3, above=0, maximum=1)

    def build(self, tasks: int, seed: int) -> Weighting:
        return GradNormWeighting(tasks, self)


class GradNormWeighting(Weighting):
    """The factors, and the losses of the first measurement."""

    def __init__(self, tasks: int, settings: GradNorm, **arguments: Any):
        super().__init__(tasks, **arguments)
        self.interval = settings.interval
        self._asymmetry, self._rate = settings.asymmetry, settings.rate
        self.present = self.state("factors", (tasks,), "ones")
        self.first_losses = self.state("first_losses", (tasks,))

    def current(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.present.value)

    def measured(self, norms: tf.Tensor, losses: tf.Tensor) -> None:
        first_losses = tf.convert_to_tensor(self.first_losses.value)
        is_first = tf.reduce_all(first_losses == 0)
        first_losses = tf.where(is_first, losses, first_losses)
        self.first_losses.assign(first_losses)
        target = gradnorm.weights(norms, losses, first_losses, self._asymmetry)
        self.present.assign(
            target if is_first else gradnorm.moved(self.current(), target, self._rate)
        )
