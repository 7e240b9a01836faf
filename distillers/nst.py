"""NST: neuron selectivity transfer, channels that look at the places the teacher's look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distillers.checks import positive
from distillers.maps import at_one_size, map_pairs, size_notes
from distillers.method import Method
from distillers.registration import register
from op_util.vectors import directions


@register("NST")
@dataclasses.dataclass(eq=False)
class NST(Method):
    """Huang & Wang, "Like what you like: knowledge distill via neuron selectivity transfer", 2017,
    with the polynomial kernel ``k(a, b) = (a^T b)^2`` (d = 2, c = 0).

    Taps may differ in channels; the larger of two maps is averaged to the size of the smaller. Taps
    that are vectors are left out.

    Args:
        weight: of this loss, next to the main loss (RepDistiller's).
    """

    paper = "Huang & Wang 2017, arXiv 1707.01219"

    weight: float = 50.0

    def __post_init__(self) -> None:
        positive("NST", weight=self.weight)
        self._notes: list[str] = []

    @property
    def distillation_weight(self) -> float:
        return self.weight

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        map_pairs("NST", teacher_outputs, student_outputs)
        self._notes = size_notes(teacher_outputs, student_outputs)

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """The sum over maps of the squared maximum mean discrepancy between the student's and the
        teacher's channels, mean over the batch.

        Args:
            teacher_outputs, student_outputs: taps ``[B, H, W, D]``, shallow to deep; those of shape
                ``[B, D]`` do not count.
        """
        loss = 0.0
        for pair in map_pairs("NST", teacher_outputs, student_outputs):
            teacher, student = (channels(maps) for maps in at_one_size(*pair))
            loss += tf.reduce_mean(discrepancy(teacher, student))
        return loss


def channels(maps: tf.Tensor) -> tf.Tensor:
    """Each channel of maps ``[B, H, W, D]`` as a vector over positions, of length 1:
    ``[B, D, H W]``."""
    rows = tf.reshape(maps, [-1, maps.shape[1] * maps.shape[2], maps.shape[3]])
    return directions(tf.linalg.matrix_transpose(rows))


def discrepancy(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """``mean k(t, t') + mean k(s, s') - 2 mean k(s, t)`` over pairs of channels, ``[B]``.

    Since ``k(a, b) = <a a^T, b b^T>``, that is ``||S^T S / D_S - T^T T / D_T||^2`` too, which costs
    less where there are fewer positions than channels.

    Args:
        teacher, student: T ``[B, D_T, N]`` and S ``[B, D_S, N]``, their rows of length 1.
    """
    if student.shape[2] <= max(student.shape[1], teacher.shape[1]):
        ours, theirs = (
            tf.matmul(x, x, transpose_a=True) / x.shape[1] for x in (student, teacher)
        )
        return tf.reduce_sum(tf.square(ours - theirs), axis=[1, 2])

    def mean_kernel(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        products = tf.matmul(one, other, transpose_b=True)
        return tf.reduce_mean(tf.square(products), axis=[1, 2])

    within = mean_kernel(teacher, teacher) + mean_kernel(student, student)
    return within - 2 * mean_kernel(student, teacher)
