"""SP: samples that are alike for the teacher are to be alike for the student."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distillers.checks import positive
from distillers.method import Method
from distillers.registration import register
from op_util.precision import at_least_float32
from op_util.vectors import directions
from registry import UserError


@register("SP")
@dataclasses.dataclass(eq=False)
class SP(Method):
    """Tung & Mori, "Similarity-preserving knowledge distillation", ICCV 2019.

    Compares the last tap, as the paper's experiments and RepDistiller do; how many others there
    are, and their channels and sizes, does not matter.

    Args:
        weight: gamma, of this loss, next to the main loss; the paper's, and RepDistiller's.
    """

    paper = "Tung & Mori, ICCV 2019, arXiv 1907.09682"
    couples_samples = True

    weight: float = 3000.0

    def __post_init__(self) -> None:
        positive("SP", weight=self.weight)

    @property
    def distillation_weight(self) -> float:
        return self.weight

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        for whose, taps in (("teacher", teacher_outputs), ("student", student_outputs)):
            if not taps:
                raise UserError(f"SP compares the last tap, and the {whose} has none")

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """``||G_teacher - G_student||_F^2 / B^2`` (equation 4), G the `similarities`.

        Args:
            teacher_outputs, student_outputs: taps ``[B, ...]``; the last of each is used.
        """
        student = at_least_float32(student_outputs[-1])
        teacher = tf.cast(tf.stop_gradient(teacher_outputs[-1]), student.dtype)
        return tf.reduce_mean(tf.square(similarities(student) - similarities(teacher)))


def similarities(tap: tf.Tensor) -> tf.Tensor:
    """``[B, B]``: inner products of the samples ``[B, ...]``, each row of unit length (equations 2
    and 3)."""
    samples = tf.reshape(tap, [tf.shape(tap)[0], -1])
    return directions(tf.matmul(samples, samples, transpose_b=True))
