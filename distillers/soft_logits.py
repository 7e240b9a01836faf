"""Soft logits: the student learns the teacher's softened class probabilities."""

from __future__ import annotations

import tensorflow as tf

from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from op_util.divergence import softened_divergence
from plugins import option


@register("Soft_logits")
class SoftLogits(Method):
    """Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", 2015.

    Args:
        temperature: T, divides the logits of both networks before the softmax.
        alpha: weight of the distillation loss; the main loss has ``1 - alpha``.
    """

    paper = "Hinton et al. 2015, arXiv 1503.02531"
    reads = Logits()

    temperature: float = option(4.0, above=0)
    alpha: float = option(0.3, minimum=0, maximum=1)

    @property
    def main_weight(self) -> float:
        return 1 - self.alpha

    @property
    def distillation_weight(self) -> float:
        return self.alpha

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, mean over the batch."""
        return softened_divergence(teacher, student, self.temperature)


register("KD")(SoftLogits)
