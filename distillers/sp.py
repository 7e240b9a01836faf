"""SP: samples that are alike for the teacher are alike for the student."""

from __future__ import annotations

import tensorflow as tf

from distillers.method import Method
from distillers.reading import LastMap
from distillers.registration import register
from op_util.vectors import unit_vectors
from plugins import option


def similarities(tap: tf.Tensor) -> tf.Tensor:
    """``G [B, B]``: inner products of the samples ``[B, ...]``, each row of unit length (equations
    2 and 3)."""
    samples = tf.reshape(tap, [tf.shape(tap)[0], -1])
    return unit_vectors(tf.matmul(samples, samples, transpose_b=True))


def similarity_loss(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """``||G_teacher - G_student||_F^2 / B^2`` (equation 4), G the `similarities`.

    Args:
        teacher, student: taps ``[B, ...]``, of any sizes and channels.
    """
    return tf.reduce_mean(tf.square(similarities(student) - similarities(teacher)))


@register("SP")
class SP(Method):
    """Tung & Mori, "Similarity-preserving knowledge distillation", ICCV 2019.

    Compares the last tap, as the paper's experiments and RepDistiller do; how many others there
    are, and their channels and sizes, does not matter.

    Args:
        weight: gamma, of this loss, next to the main loss. None: 500, or 300 for a student without
            normalisation layers. The paper's and RepDistiller's 3000 drowns the main loss at a
            learning rate above theirs of 0.05.
    """

    paper = "Tung & Mori, ICCV 2019, arXiv 1907.09682"
    reads = LastMap(maps_only=False)
    couples_samples = True
    usual_weight = 500.0
    weight_without_normalization = 300.0

    weight: float | None = option(None, above=0)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        return similarity_loss(teacher, student)
