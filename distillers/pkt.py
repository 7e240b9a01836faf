"""PKT: two samples are neighbours with the probability that the teacher gives."""

from __future__ import annotations

import tensorflow as tf

from distillers.method import Method
from distillers.reading import Embedding
from distillers.registration import register
from op_util.vectors import unit_vectors
from plugins import option

EPSILON = 1e-7  # added to probabilities before their ratio is taken; the authors' code


def neighbours(samples: tf.Tensor) -> tf.Tensor:
    """``P [B, B]``: ``(1 + cosine) / 2`` between samples ``[B, D]``, each row
    divided by its sum."""
    unit = unit_vectors(samples)
    # Rounding may take a cosine below -1.
    kernel = tf.maximum(1 + tf.matmul(unit, unit, transpose_b=True), 0) / 2
    return kernel / tf.reduce_sum(kernel, axis=1, keepdims=True)


def neighbour_divergence(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """``KL(P_teacher || P_student)``, P the `neighbours`; mean over all ``B^2`` pairs, as in the
    authors' code.

    Args:
        teacher, student: embeddings ``[B, D]``; D may differ.
    """
    teacher, student = neighbours(teacher), neighbours(student)
    return tf.reduce_mean(teacher * tf.math.log((teacher + EPSILON) / (student + EPSILON)))


@register("PKT")
class PKT(Method):
    """Passalis & Tefas, "Learning deep representations with probabilistic knowledge transfer", ECCV
    2018.

    Embeddings of teacher and student may differ in width.

    Args:
        weight: weight relative to the main loss; RepDistiller's.
    """

    paper = "Passalis & Tefas, ECCV 2018, arXiv 1803.10837"
    reads = Embedding()
    couples_samples = True

    weight: float = option(30000.0, above=0)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        return neighbour_divergence(teacher, student)
