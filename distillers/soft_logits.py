"""Soft logits: the student learns the teacher's softened class probabilities."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from distillers.checks import in_range, positive, same_classes
from distillers.method import Method
from distillers.registration import register


@register("Soft_logits")
@dataclasses.dataclass(eq=False)
class SoftLogits(Method):
    """Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network", 2015.

    Args:
        temperature: T, divides the logits of both networks before the softmax.
        alpha: weight of the distillation loss; the main loss has ``1 - alpha``.
    """

    paper = "Hinton et al. 2015, arXiv 1503.02531"
    reads = "logits"

    temperature: float = 4.0
    alpha: float = 0.3

    def __post_init__(self) -> None:
        positive("Soft_logits", temperature=self.temperature)
        in_range("Soft_logits", 0, 1, alpha=self.alpha)

    @property
    def main_weight(self) -> float:
        return 1 - self.alpha

    @property
    def distillation_weight(self) -> float:
        return self.alpha

    def build(self, teacher_outputs: Any, student_outputs: Any) -> None:
        same_classes("Soft_logits", teacher_outputs, student_outputs)

    def compute_loss(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **context: Any
    ) -> tf.Tensor:
        """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, mean over the batch.

        Args:
            teacher_outputs, student_outputs: logits ``[B, classes]``.
        """
        teacher_outputs = tf.cast(teacher_outputs, student_outputs.dtype)
        teacher, student = (
            tf.nn.log_softmax(logits / self.temperature)
            for logits in (teacher_outputs, student_outputs)
        )
        divergence = tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=1)
        return self.temperature**2 * tf.reduce_mean(divergence)
