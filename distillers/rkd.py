"""RKD: distances between two samples, and angles between three, are to be the teacher's."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import tensorflow as tf

from distillers.checks import in_range, positive
from distillers.method import Method
from distillers.registration import register
from op_util.precision import at_least_float32
from op_util.vectors import directions, lengths


@register("RKD")
@dataclasses.dataclass(eq=False)
class RKD(Method):
    """Park, Kim, Lu & Cho, "Relational knowledge distillation", CVPR 2019.

    Embeddings of teacher and student may differ in width. Defaults are RepDistiller's, after the
    paper's for image classification.

    Args:
        distance_weight: of the distances' part; 0 leaves RKD-A.
        angle_weight: of the angles' part; 0 leaves RKD-D.
        weight: of this loss, next to the main loss.
    """

    paper = "Park et al., CVPR 2019, arXiv 1904.05068"
    reads = "embedding"
    couples_samples = True

    distance_weight: float = 25.0
    angle_weight: float = 50.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        in_range(
            "RKD", 0, math.inf, distance_weight=self.distance_weight, angle_weight=self.angle_weight
        )
        positive("RKD", weight=self.weight)

    @property
    def distillation_weight(self) -> float:
        return self.weight

    def compute_loss(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **context: Any
    ) -> tf.Tensor:
        """``distance_weight L_RKD-D + angle_weight L_RKD-A`` (equations 6 to 9), each the mean over
        all pairs and triplets, also those in which a sample comes twice (0 in both networks).

        Args:
            teacher_outputs, student_outputs: embeddings ``[B, D]``.
        """
        student = at_least_float32(student_outputs)
        teacher = tf.cast(tf.stop_gradient(teacher_outputs), student.dtype)
        student, teacher = _differences(student), _differences(teacher)
        distance = _huber(_distances(student) - _distances(teacher))
        angle = _huber(_angles(student) - _angles(teacher))
        return self.distance_weight * distance + self.angle_weight * angle


def _differences(samples: tf.Tensor) -> tf.Tensor:
    """``[B, B, D]``: at ``[i, j]`` sample j minus sample i."""
    return samples[None, :, :] - samples[:, None, :]


def _distances(differences: tf.Tensor) -> tf.Tensor:
    """``psi_D [B, B]``: lengths, over the mean of those that are not zero (equations 4, 5)."""
    distances = tf.squeeze(lengths(differences), axis=-1)
    apart = tf.cast(distances > 0, distances.dtype)
    mean = tf.math.divide_no_nan(tf.reduce_sum(distances), tf.reduce_sum(apart))
    return tf.math.divide_no_nan(distances, mean)


def _angles(differences: tf.Tensor) -> tf.Tensor:
    """``psi_A [B, B, B]``: at ``[i, j, k]`` the cosine at sample i of the angle between j and k
    (equation 7); 0 where two of them are in one place."""
    e = directions(differences)
    return tf.matmul(e, e, transpose_b=True)


def _huber(error: tf.Tensor) -> tf.Tensor:
    """The mean Huber loss: ``e^2 / 2`` up to 1, beyond that ``|e| - 1/2`` (equation 2)."""
    size = tf.abs(error)
    return tf.reduce_mean(tf.where(size <= 1, tf.square(error) / 2, size - 0.5))
