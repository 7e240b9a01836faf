"""Triplets: two tasks' embeddings of an image are closer than those of different images."""

from __future__ import annotations

import tensorflow as tf

from op_util.metric_learning import triplet_loss
from plugins import option
from pretext.registration import REGULARIZERS
from pretext.regularizer import Regularizer


@REGULARIZERS.register("triplet")
class Triplet(Regularizer):
    """See `op_util.metric_learning.triplet_loss`.

    Args:
        margin: margin between squared distances, which are 0 to 4 (0.2 as in FaceNet).
    """

    margin: float = option(0.2, minimum=0, maximum=4)

    def __call__(self, embeddings: tf.Tensor) -> tf.Tensor:
        return triplet_loss(embeddings, self.margin)
