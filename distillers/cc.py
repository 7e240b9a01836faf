"""CC: correlation congruence, relations between the samples of a batch match the teacher's."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from distillers.adapters import linear
from distillers.loss import Context, Loss
from distillers.method import Method
from distillers.reading import Embedding
from distillers.registration import register
from op_util.vectors import unit_vectors
from plugins import option


def gaussian_kernel(samples: tf.Tensor, gamma: float, order: int) -> tf.Tensor:
    """``exp(-gamma ||x - y||^2)`` between samples of unit length, by the Taylor series
    ``exp(-2 gamma) sum_p (2 gamma x.y)^p / p!`` (the paper's).

    Args:
        samples: ``[B, D]``, brought to unit length here.
        gamma: above 0.
        order: the highest p.

    Returns:
        ``[B, B]``.
    """
    unit = unit_vectors(samples)
    exponent = 2 * gamma * tf.matmul(unit, unit, transpose_b=True)
    series = term = tf.ones_like(exponent)
    for p in range(1, order + 1):
        term *= exponent / p
        series += term
    return math.exp(-2 * gamma) * series


def congruence_loss(
    teacher: tf.Tensor, student: tf.Tensor, gamma: float, order: int
) -> tf.Tensor:
    """``||K_student - K_teacher||_F^2 / B^2``, K the `gaussian_kernel` (Peng et al., equation 6).

    Args:
        teacher, student: embeddings ``[B, D]``; D may differ.
        gamma, order: see `gaussian_kernel`.
    """
    theirs, ours = (gaussian_kernel(samples, gamma, order) for samples in (teacher, student))
    return tf.reduce_mean(tf.square(ours - theirs))


def neighbour_loss(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """The mean over all samples i but the last of ``|s_i - t_i| . |s_i+1 - t_i+1|``; 0 for one
    sample (RepDistiller).

    Args:
        teacher, student: embedded samples ``[B, D]``.
    """
    distances = tf.abs(student - teacher)
    products = tf.reduce_sum(distances[:-1] * distances[1:], axis=1)
    return tf.math.divide_no_nan(
        tf.reduce_sum(products), tf.cast(tf.size(products), products.dtype)
    )


@register("CC")
class CC(Method):
    """Peng et al., "Correlation congruence for knowledge distillation", ICCV 2019.

    There are two losses of this name. RepDistiller's, which most comparisons call CC, multiplies
    the distances of student and teacher at neighbouring samples of the batch, after a trained
    linear layer on each of the two embeddings. The paper's compares kernel matrices between all
    samples, and has no layers. In both, the embeddings may differ in width.

    Args:
        definition: ``"repdistiller"`` or ``"paper"``.
        embedding_size: width behind the linear layers; RepDistiller's.
        gamma: of the Gaussian kernel ``exp(-gamma ||x - y||^2)``; the paper's.
        order: the highest power in the kernel's Taylor series; the paper's.
        weight: weight relative to the main loss; RepDistiller's. With the paper's definition,
            AberHu's Knowledge-Distillation-Zoo has 100.
    """

    paper = "Peng et al., ICCV 2019, arXiv 1904.01802"
    reads = Embedding()
    couples_samples = True

    definition: str = option("repdistiller", choices=("repdistiller", "paper"))
    embedding_size: int = option(128, minimum=1)
    gamma: float = option(0.4, above=0)
    order: int = option(2, minimum=1)
    weight: float = option(0.02, above=0)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        if self.definition == "paper":
            return self.make_loss(teacher, student, self._congruence)
        embed_teacher = linear(teacher, self.embedding_size, name="cc_teacher")
        embed_student = linear(student, self.embedding_size, name="cc_student")

        def loss(teacher: tf.Tensor, student: tf.Tensor, context: Context) -> tf.Tensor:
            return neighbour_loss(embed_teacher(teacher), embed_student(student))

        return self.make_loss(teacher, student, loss, layers=[embed_teacher, embed_student])

    def _congruence(self, teacher: tf.Tensor, student: tf.Tensor, context: Context) -> tf.Tensor:
        return congruence_loss(teacher, student, self.gamma, self.order)
