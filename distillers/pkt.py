"""PKT: the probability that two samples are neighbours is to be as the teacher has it."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from distillers.checks import positive
from distillers.method import Method
from distillers.registration import register
from op_util.precision import at_least_float32
from op_util.vectors import directions

EPSILON = 1e-7  # added to probabilities before their ratio is taken; the authors' code


@register("PKT")
@dataclasses.dataclass(eq=False)
class PKT(Method):
    """Passalis & Tefas, "Learning deep representations with probabilistic knowledge transfer", ECCV
    2018.

    Embeddings of teacher and student may differ in width.

    Args:
        weight: of this loss, next to the main loss; RepDistiller's.
    """

    paper = "Passalis & Tefas, ECCV 2018, arXiv 1803.10837"
    reads = "embedding"
    couples_samples = True

    weight: float = 30000.0

    def __post_init__(self) -> None:
        positive("PKT", weight=self.weight)

    @property
    def distillation_weight(self) -> float:
        return self.weight

    def compute_loss(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **context: Any
    ) -> tf.Tensor:
        """``KL(P_teacher || P_student)`` of the `neighbours`, mean over all ``B^2`` pairs as in the
        authors' code.

        Args:
            teacher_outputs, student_outputs: embeddings ``[B, D]``.
        """
        student = at_least_float32(student_outputs)
        teacher = tf.cast(tf.stop_gradient(teacher_outputs), student.dtype)
        student, teacher = neighbours(student), neighbours(teacher)
        ratio = (teacher + EPSILON) / (student + EPSILON)
        return tf.reduce_mean(teacher * tf.math.log(ratio))


def neighbours(samples: tf.Tensor) -> tf.Tensor:
    """``[B, B]``: ``(1 + cosine) / 2`` between samples ``[B, D]``, each row divided by its sum."""
    unit = directions(samples)
    # Rounding may take a cosine below -1.
    kernel = tf.maximum(1 + tf.matmul(unit, unit, transpose_b=True), 0) / 2
    return kernel / tf.reduce_sum(kernel, axis=1, keepdims=True)
