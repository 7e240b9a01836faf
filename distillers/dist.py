"""DIST: the student's class probabilities are to correlate with the teacher's."""

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


@register("DIST")
@dataclasses.dataclass(eq=False)
class DIST(Method):
    """Huang, You, Wang, Qian & Xu, "Knowledge distillation from a stronger teacher", NeurIPS 2022.

    Defaults are those of the authors' code, which uses them on ImageNet.

    Args:
        temperature: T, divides the logits of both networks before the softmax.
        beta: weight of the relations between classes, within an image.
        gamma: weight of the relations between images, within a class.
        weight: of this loss, next to the main loss.
    """

    paper = "Huang et al., NeurIPS 2022, arXiv 2205.10536"
    reads = "logits"
    couples_samples = True

    temperature: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        positive("DIST", temperature=self.temperature, weight=self.weight)
        in_range("DIST", 0, math.inf, beta=self.beta, gamma=self.gamma)

    @property
    def distillation_weight(self) -> float:
        return self.weight

    def build(self, teacher_outputs: Any, student_outputs: Any) -> None:
        same_classes("DIST", teacher_outputs, student_outputs)

    def compute_loss(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **context: Any
    ) -> tf.Tensor:
        """``T^2 (beta L_inter + gamma L_intra)`` (equations 8 to 10): the mean of ``1 - rho`` over
        the rows of the matrices of probabilities, and over their columns.

        Args:
            teacher_outputs, student_outputs: logits ``[B, classes]``.
        """
        student = at_least_float32(student_outputs)
        teacher = tf.cast(tf.stop_gradient(teacher_outputs), student.dtype)
        student, teacher = (
            tf.nn.softmax(logits / self.temperature) for logits in (student, teacher)
        )
        inter = 1 - tf.reduce_mean(pearson_correlation(student, teacher))
        intra = 1 - tf.reduce_mean(
            pearson_correlation(tf.transpose(student), tf.transpose(teacher))
        )
        return self.temperature**2 * (self.beta * inter + self.gamma * intra)


def pearson_correlation(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """``rho [N]`` of the rows of two matrices ``[N, M]``; 0 where a row is constant."""
    one, other = (
        directions(rows - tf.reduce_mean(rows, axis=1, keepdims=True)) for rows in (one, other)
    )
    return tf.reduce_sum(one * other, axis=1)
