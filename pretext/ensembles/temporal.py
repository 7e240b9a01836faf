"""The temporal task ensemble (TTE): of all tasks' embeddings of an image over the epochs."""

from __future__ import annotations

import tensorflow as tf

from op_util.temporal_ensemble import contrastive_loss, ensemble_distance, ramp
from plugins import option
from pretext.ensemble import Ensemble, EnsembleState, Run
from pretext.registration import ENSEMBLES
from pretext.temporal_memory import DTYPES, TemporalMemory, memory_bytes

RAMP_SHARE = 0.25


@ENSEMBLES.register("temporal")
class Temporal(Ensemble):
    """After Laine & Aila, "Temporal ensembling for semi-supervised learning", ICLR 2017, carried
    over to the embeddings of several tasks (see `op_util.temporal_ensemble`).

    Args:
        ensemble_weight: w_max, the largest factor of the temporal ensemble's loss in the total.
        ramp_epochs: epochs until the factor is the largest; not set: a quarter of all.
        memory_decay: a, of what an image's memory held before.
        ensemble_temperature: tau, of the cosines to the memories of the batch's images.
        memory_dtype: dtype in which the memory is held.
    """

    paper = "Kim, Lee & Song, ICCV Workshops 2019, arXiv 1908.11024"
    least_tasks = 2

    ensemble_weight: float = option(1.0, minimum=0)
    ramp_epochs: float | None = option(None, minimum=0)
    memory_decay: float = option(0.6, minimum=0, maximum=0.9999)
    ensemble_temperature: float = option(0.1, above=0)
    memory_dtype: str = option("float32", choices=DTYPES)

    def build(self, run: Run) -> EnsembleState:
        return TemporalState(self, run)

    def memory_bytes(self, run: Run) -> int:
        return memory_bytes(run.images, run.tasks, run.width, self.memory_dtype, run.shared)


class TemporalState(EnsembleState):
    """The memory of all training images."""

    metrics_of_steps = ("ensemble_loss", "ensemble_distance")
    adds_loss = True

    def __init__(self, settings: Temporal, run: Run):
        super().__init__(name="temporal")
        ramp_epochs = settings.ramp_epochs
        self._ramp_epochs = RAMP_SHARE * run.epochs if ramp_epochs is None else ramp_epochs
        self._weight, self._temperature = settings.ensemble_weight, settings.ensemble_temperature
        self.memory = TemporalMemory(
            run.images, run.tasks, run.width, settings.memory_decay, settings.memory_dtype,
            run.shared,
        )

    def weight(self, epoch: tf.Tensor) -> tf.Tensor:
        """w, the factor of the loss in an epoch, a float32 scalar."""
        return ramp(epoch, self._ramp_epochs, self._weight)

    def loss(
        self,
        embeddings: tf.Tensor,
        index: tf.Tensor,
        epoch: tf.Tensor,
        tasks: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        ensemble, known = self.memory.read(index)
        loss = contrastive_loss(embeddings, ensemble, known, index, self._temperature)
        logs = {
            "ensemble_loss": loss,
            "ensemble_distance": ensemble_distance(embeddings, ensemble, known),
        }
        self.memory.update(index, tf.stop_gradient(embeddings), tasks)  # after it was read
        return self.weight(epoch) * loss, logs

    def metrics_of_epoch(self, epoch: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"ensemble_weight": self.weight(epoch)}
