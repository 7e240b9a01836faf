"""LogitStd: soft logits that are compared whatever their mean and their spread."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

from distillers.checks import in_range, positive, same_classes
from distillers.method import Method
from distillers.registration import register
from op_util.precision import at_least_float32
from op_util.vectors import directions


@register("LogitStd")
@dataclasses.dataclass(eq=False)
class LogitStd(Method):
    """Sun, Ren, Li, Wang & Cao, "Logit standardization in knowledge distillation", CVPR 2024.

    Defaults are those of the authors' code for CIFAR-100: base temperature 2, weight 9, and
    mdistiller's weight of the main loss in KD.

    Args:
        temperature: the base temperature, divides the standardized logits of both networks.
        weight: of this loss.
        label_weight: of the main loss.
    """

    paper = "Sun et al., CVPR 2024, arXiv 2403.01427"
    reads = "logits"

    temperature: float = 2.0
    weight: float = 9.0
    label_weight: float = 0.1

    def __post_init__(self) -> None:
        positive("LogitStd", temperature=self.temperature, weight=self.weight)
        in_range("LogitStd", 0, math.inf, label_weight=self.label_weight)

    @property
    def main_weight(self) -> float:
        return self.label_weight

    @property
    def distillation_weight(self) -> float:
        return self.weight

    def build(self, teacher_outputs: Any, student_outputs: Any) -> None:
        same_classes("LogitStd", teacher_outputs, student_outputs)

    def compute_loss(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **context: Any
    ) -> tf.Tensor:
        """``T^2 KL(softmax(Z(teacher) / T) || softmax(Z(student) / T))``, mean over the batch, Z
        the `z_score` (algorithm 1).

        Args:
            teacher_outputs, student_outputs: logits ``[B, classes]``.
        """
        student = at_least_float32(student_outputs)
        teacher = tf.cast(tf.stop_gradient(teacher_outputs), student.dtype)
        student, teacher = (
            tf.nn.log_softmax(z_score(logits) / self.temperature) for logits in (student, teacher)
        )
        divergence = tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=1)
        return self.temperature**2 * tf.reduce_mean(divergence)


def z_score(logits: tf.Tensor) -> tf.Tensor:
    """Each row of ``[B, classes]`` minus its mean, over its standard deviation; 0 where all of a
    row are equal. As in the authors' code, the squares are divided by ``classes - 1``."""
    centred = logits - tf.reduce_mean(logits, axis=1, keepdims=True)
    return directions(centred) * math.sqrt(logits.shape[1] - 1)
