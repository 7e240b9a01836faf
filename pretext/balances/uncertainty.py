"""Uncertainty weighting: each loss is divided by a learned variance."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from plugins import option
from pretext.balance import Balance, Weighting
from pretext.registration import BALANCES


def uncertainty_factors(log_variances: tf.Tensor) -> tf.Tensor:
    """``1 / (2 sigma_t^2)`` from ``s_t = log sigma_t^2``, both ``[T]``."""
    return tf.exp(-log_variances) / 2


def uncertainty_penalty(log_variances: tf.Tensor) -> tf.Tensor:
    """``sum_t log sigma_t``, which keeps the variances from growing without bound; a scalar."""
    return tf.reduce_sum(log_variances) / 2


@BALANCES.register("uncertainty")
class Uncertainty(Balance):
    """Kendall, Gal & Cipolla, "Multi-task learning using uncertainty to weigh losses for scene
    geometry and semantics", CVPR 2018.

    The total is ``sum_t L_t / (2 sigma_t^2) + log sigma_t`` (equation 7). As in the authors' code,
    ``log sigma_t^2`` is learned; the encoder's optimizer trains it too. Departure: the paper gives
    losses of classification the factor ``1 / sigma_t^2`` (equation 10); here all tasks have that of
    regression, half of it.

    Args:
        log_variance: initial ``log sigma_t^2`` of each task.
    """

    paper = "Kendall et al., CVPR 2018, arXiv 1705.07115"

    log_variance: float = option(0.0, minimum=-20, maximum=20)

    def build(self, tasks: int, seed: int) -> Weighting:
        return UncertaintyWeighting(tasks, self.log_variance)


class UncertaintyWeighting(Weighting):
    """Holds the trained logarithms of the variances."""

    def __init__(self, tasks: int, log_variance: float, **arguments: Any):
        super().__init__(tasks, **arguments)
        self.log_variances = self.add_weight(
            name="log_variances", shape=(tasks,),
            initializer=keras.initializers.Constant(log_variance),
        )

    def current(self) -> tf.Tensor:
        return uncertainty_factors(tf.convert_to_tensor(self.log_variances.value))

    def penalty(self) -> tf.Tensor:
        return uncertainty_penalty(tf.convert_to_tensor(self.log_variances.value))
