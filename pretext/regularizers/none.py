"""No regularizer."""

from __future__ import annotations

import tensorflow as tf

from pretext.registration import REGULARIZERS
from pretext.regularizer import Regularizer


@REGULARIZERS.register("none")
class NoRegularizer(Regularizer):
    """No regularization."""

    least_tasks = 1
    acts = False

    def __call__(self, embeddings: tf.Tensor) -> tf.Tensor:
        return tf.constant(0.0)
