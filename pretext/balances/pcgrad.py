"""PCGrad: remove the conflicting components of the tasks' gradients on the encoder."""

from __future__ import annotations

import tensorflow as tf

from op_util.gradient_surgery import without_conflicts
from pretext.balance import Balance, Weighting
from pretext.registration import BALANCES


@BALANCES.register("pcgrad")
class PCGrad(Balance):
    """Yu et al., "Gradient surgery for multi-task learning", NeurIPS 2020.

    The losses are unchanged. On the encoder, the sum of the tasks' gradients is replaced by the sum
    of their projections (see `op_util.gradient_surgery`). Each step takes one backward pass per
    task.
    """

    paper = "Yu et al., NeurIPS 2020, arXiv 2001.06782"
    least_tasks = 2

    def build(self, tasks: int, seed: int) -> Weighting:
        return PCGradWeighting(tasks)


class PCGradWeighting(Weighting):
    """No state: the projections are a function of the gradients."""

    combines_gradients = True

    def combined(self, gradients: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(without_conflicts(gradients), axis=0)
