"""DIST: the student's class probabilities correlate with the teacher's."""

from __future__ import annotations

import tensorflow as tf

from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from op_util.vectors import centred_unit_vectors
from plugins import option


def correlation_loss(
    teacher: tf.Tensor, student: tf.Tensor, temperature: float, beta: float, gamma: float
) -> tf.Tensor:
    """``T^2 (beta L_inter + gamma L_intra)`` (equations 8 to 10): the mean of ``1 - rho`` over the
    rows of the two matrices of class probabilities, and over their columns.

    Args:
        teacher, student: logits ``[B, classes]``.
        temperature: T, above 0.
        beta, gamma: weights of the rows (images) and of the columns (classes).
    """
    teacher, student = (tf.nn.softmax(z / temperature) for z in (teacher, student))
    inter = 1 - tf.reduce_mean(pearson_correlation(student, teacher))
    intra = 1 - tf.reduce_mean(pearson_correlation(tf.transpose(student), tf.transpose(teacher)))
    return temperature**2 * (beta * inter + gamma * intra)


def pearson_correlation(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """``rho [N]`` of the rows of two matrices ``[N, M]``; 0 where a row is constant."""
    return tf.reduce_sum(centred_unit_vectors(one) * centred_unit_vectors(other), axis=1)


@register("DIST")
class DIST(Method):
    """Huang, You, Wang, Qian & Xu, "Knowledge distillation from a stronger teacher", NeurIPS 2022.

    Defaults are those of the authors' code for ImageNet; for CIFAR-100 it has temperature 4.

    Args:
        temperature: T, divides the logits of both networks before the softmax.
        beta: weight of the relations between classes, within an image.
        gamma: weight of the relations between images, within a class.
        weight: weight relative to the main loss.
    """

    paper = "Huang et al., NeurIPS 2022, arXiv 2205.10536"
    reads = Logits()
    couples_samples = True

    temperature: float = option(1.0, above=0)
    beta: float = option(1.0, minimum=0)
    gamma: float = option(1.0, minimum=0)
    weight: float = option(2.0, above=0)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        return correlation_loss(teacher, student, self.temperature, self.beta, self.gamma)
