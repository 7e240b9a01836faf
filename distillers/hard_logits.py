"""Hard_logits: the student learns the class that the teacher chooses."""

from __future__ import annotations

import tensorflow as tf

from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from plugins import option


def hard_cross_entropy(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """The cross-entropy of the student with the teacher's class, ``argmax`` of its logits; mean
    over the batch (equation 3).

    Args:
        teacher, student: logits ``[B, classes]``.
    """
    chosen = tf.argmax(teacher, axis=1)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(chosen, student))


@register("Hard_logits")
class HardLogits(Method):
    """Touvron et al., "Training data-efficient image transformers & distillation through
    attention" (DeiT), ICML 2021: hard-label distillation.

    Departure: the paper gives this loss a token and a classifier of its own, averaged with the
    class token's when the network is used; here one classifier learns both.

    Args:
        alpha: weight of this loss; the main loss has ``1 - alpha``.
    """

    paper = "Touvron et al., ICML 2021, arXiv 2012.12877"
    reads = Logits()

    alpha: float = option(0.5, minimum=0, maximum=1)

    @property
    def main_weight(self) -> float:
        return 1 - self.alpha

    @property
    def distillation_weight(self) -> float:
        return self.alpha

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        return hard_cross_entropy(teacher, student)
