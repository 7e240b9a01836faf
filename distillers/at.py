"""AT: attention transfer, the student looks where the teacher looks."""

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


@register("AT")
@dataclasses.dataclass(eq=False)
class AT(Method):
    """Zagoruyko & Komodakis, "Paying more attention to attention", ICLR 2017: activation-based
    attention transfer, next to the main task.

    Taps may differ in channels; the larger of two maps is averaged to the size of the smaller. Taps
    that are vectors are left out.

    Args:
        weight: of this loss, next to the main loss (RepDistiller's, for networks with batch
            normalisation; the VGG pairs have none, and at a learning rate of 1e-2 need 100).
    """

    paper = "Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928"

    weight: float = 1000.0

    def __post_init__(self) -> None:
        positive("AT", weight=self.weight)
        self._notes: list[str] = []

    @property
    def distillation_weight(self) -> float:
        return self.weight

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        map_pairs("AT", teacher_outputs, student_outputs)
        self._notes = size_notes(teacher_outputs, student_outputs)

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """The sum over maps of the mean over batch and positions of ``(Q_student - Q_teacher)^2``,
        Q the `attention` (eq. 2, squared).

        Args:
            teacher_outputs, student_outputs: taps ``[B, H, W, D]``, shallow to deep; those of shape
                ``[B, D]`` do not count.
        """
        loss = 0.0
        for pair in map_pairs("AT", teacher_outputs, student_outputs):
            teacher, student = (attention(maps) for maps in at_one_size(*pair))
            loss += tf.reduce_mean(tf.square(student - teacher))
        return loss


def attention(maps: tf.Tensor) -> tf.Tensor:
    """``F / ||F||_2`` of ``F = mean over channels of A^2`` (section 3.1), as ``[B, H W]``.

    Args:
        maps: A, ``[B, H, W, D]``.
    """
    energy = tf.reduce_mean(tf.square(maps), axis=-1)
    return directions(tf.reshape(energy, [-1, maps.shape[1] * maps.shape[2]]))
