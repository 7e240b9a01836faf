"""CC: correlation congruence, relations between the samples of a batch are to be the teacher's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.adapters import linear
from distillers.checks import one_of, positive
from distillers.method import Method
from distillers.registration import register
from op_util.precision import at_least_float32
from op_util.vectors import directions


@register("CC")
@dataclasses.dataclass(eq=False)
class CC(Method):
    """Peng et al., "Correlation congruence for knowledge distillation", ICCV 2019.

    There are two losses of this name. RepDistiller's, which its comparison and those after it call
    CC, multiplies how far student and teacher are apart at neighbouring samples of the batch, after
    a trained linear layer on each of the two embeddings. The paper's compares matrices of a kernel
    between all samples, and has no layers. Embeddings may differ in width in both.

    Args:
        definition: ``"repdistiller"`` or ``"paper"``.
        embedding_size: width behind the linear layers; RepDistiller's.
        gamma: of the Gaussian kernel ``exp(-gamma ||x - y||^2)``; the paper's.
        order: the highest power in the kernel's Taylor series; the paper's.
        weight: of this loss, next to the main loss; RepDistiller's. With the paper's definition,
            AberHu's Knowledge-Distillation-Zoo has 100.
    """

    paper = "Peng et al., ICCV 2019, arXiv 1904.01802"
    reads = "embedding"
    couples_samples = True

    definition: str = "repdistiller"
    embedding_size: int = 128
    gamma: float = 0.4
    order: int = 2
    weight: float = 0.02

    def __post_init__(self) -> None:
        one_of("CC", ("repdistiller", "paper"), definition=self.definition)
        positive(
            "CC", embedding_size=self.embedding_size, gamma=self.gamma, order=self.order,
            weight=self.weight,
        )
        self._layers: list[keras.layers.Layer] = []

    @property
    def distillation_weight(self) -> float:
        return self.weight

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        return self._layers

    def build(self, teacher_outputs: Any, student_outputs: Any) -> None:
        if self.definition == "repdistiller":
            self._layers = [
                linear(embedding, self.embedding_size, name=f"cc_{whose}")
                for whose, embedding in (("teacher", teacher_outputs), ("student", student_outputs))
            ]

    def compute_loss(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **context: Any
    ) -> tf.Tensor:
        """`neighbours_apart` of the embedded samples, or the mean over all pairs of samples of the
        squared difference of the networks' `gaussian_kernel` (the paper's equation 6).

        Args:
            teacher_outputs, student_outputs: embeddings ``[B, D]``.
        """
        student = at_least_float32(student_outputs)
        teacher = tf.cast(tf.stop_gradient(teacher_outputs), student.dtype)
        if self.definition == "paper":
            student, teacher = (
                gaussian_kernel(samples, self.gamma, self.order) for samples in (student, teacher)
            )
            return tf.reduce_mean(tf.square(student - teacher))
        embed_teacher, embed_student = self._layers
        return neighbours_apart(embed_student(student), embed_teacher(teacher))


def neighbours_apart(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """The mean over samples i but the last of ``|s_i - t_i| . |s_i+1 - t_i+1|``, of ``[B, D]``; 0
    for one sample."""
    apart = tf.abs(student - teacher)
    products = tf.reduce_sum(apart[:-1] * apart[1:], axis=1)
    return tf.math.divide_no_nan(
        tf.reduce_sum(products), tf.cast(tf.size(products), products.dtype)
    )


def gaussian_kernel(samples: tf.Tensor, gamma: float, order: int) -> tf.Tensor:
    """``[B, B]``: ``exp(-gamma ||x - y||^2)`` between samples ``[B, D]``, each brought to unit
    length, by the Taylor series ``exp(-2 gamma) sum_p (2 gamma x.y)^p / p!`` up to `order`."""
    unit = directions(samples)
    exponent = 2 * gamma * tf.matmul(unit, unit, transpose_b=True)
    series = term = tf.ones_like(exponent)
    for p in range(1, order + 1):
        term *= exponent / p
        series += term
    return math.exp(-2 * gamma) * series
