"""Relations: all tasks agree on the distances between images."""

from __future__ import annotations

import tensorflow as tf

from op_util.metric_learning import relational_loss
from pretext.registration import REGULARIZERS
from pretext.regularizer import Regularizer


@REGULARIZERS.register("relational")
class Relational(Regularizer):
    """See `op_util.metric_learning.relational_loss`."""

    needs_all_tasks = True

    def __call__(self, embeddings: tf.Tensor) -> tf.Tensor:
        return relational_loss(embeddings)
