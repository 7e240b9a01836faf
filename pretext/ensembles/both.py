"""Both ensembles: of the embeddings over the epochs, and of the weights over the steps."""

from __future__ import annotations

import contextlib

import tensorflow as tf

from pretext.ensemble import EnsembleState, Run
from pretext.ensembles.temporal import Temporal, TemporalState
from pretext.ensembles.weights import Weights, WeightsState
from pretext.registration import ENSEMBLES


@ENSEMBLES.register("both")
class Both(Temporal, Weights):
    """`temporal` and `weights` together.

    Args:
        ensemble_weight: w_max, the largest factor of the temporal ensemble's loss in the total.
        ramp_epochs: epochs until the factor is the largest; not set: a quarter of all.
        memory_decay: a, of what an image's memory held before.
        ensemble_temperature: tau, of the cosines to the memories of the batch's images.
        memory_dtype: dtype in which the memory is held.
        average_decay: decay of the weights' average at each step.
    """

    def build(self, run: Run) -> EnsembleState:
        return BothStates(TemporalState(self, run), WeightsState(self, run))


class BothStates(EnsembleState):
    """The state of each."""

    metrics_of_steps = TemporalState.metrics_of_steps
    adds_loss = True

    def __init__(self, temporal: TemporalState, weights: WeightsState):
        super().__init__(name="both")
        self.temporal, self.averaging = temporal, weights

    def loss(
        self,
        embeddings: tf.Tensor,
        index: tf.Tensor,
        epoch: tf.Tensor,
        tasks: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        return self.temporal.loss(embeddings, index, epoch, tasks)

    def end_step(self) -> None:
        self.averaging.end_step()

    def metrics_of_epoch(self, epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.temporal.metrics_of_epoch(epoch)

    def applied(self) -> contextlib.AbstractContextManager[None]:
        return self.averaging.applied()
