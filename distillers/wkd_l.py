"""WKD_L: the Wasserstein distance between class probabilities, where similar classes are near."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from distillers.classifiers import classifier_kernel
from distillers.loss import Loss
from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from distillers.samples import mean_over_labelled
from op_util.divergence import log_softmax_without
from op_util.vectors import unit_vectors
from plugins import option
from registry import UserError

EPSILON = 1e-8  # added to costs and to the divisors of Sinkhorn's iteration; the authors' code


def class_costs(classifier: tf.Tensor) -> tf.Tensor:
    """``1 - cosine`` of each two rows of a classifier ``[classes, features]``, at least 0:
    ``[classes, classes]``."""
    rows = unit_vectors(classifier)
    return tf.maximum(1 - tf.matmul(rows, rows, transpose_b=True), 0) + EPSILON


def wasserstein_distance(
    student: tf.Tensor,
    teacher: tf.Tensor,
    left_out: tf.Tensor,
    costs: tf.Tensor,
    regularization: float,
    iterations: int,
) -> tf.Tensor:
    """``sum over i, j of u_i K_ij v_j cost_ij`` of each image ``[B]``: the flow between classes, by
    Sinkhorn's iteration with ``K = exp(-cost / regularization)``.

    Args:
        student, teacher: probabilities ``[B, classes]``, 0 for the classes that are left out.
        left_out: bool ``[B, classes]``.
        costs: ``[classes, classes]``, symmetric.
        regularization: of the flow's entropy, above 0.
        iterations: number of them.
    """
    kernel = tf.exp(-costs / regularization)
    taking_part = tf.cast(~left_out, teacher.dtype)
    count = tf.reduce_sum(taking_part, axis=1, keepdims=True)
    u = v = tf.math.divide_no_nan(taking_part, count)  # of a single class, none takes part
    for _ in range(iterations):
        v = teacher / (tf.matmul(u, kernel) + EPSILON)
        u = student / (tf.matmul(v, kernel) + EPSILON)
    return tf.reduce_sum(u * tf.matmul(v, kernel * costs), axis=1)


def true_class_loss(teacher: tf.Tensor, student: tf.Tensor, is_true: tf.Tensor) -> tf.Tensor:
    """``-p log q`` of each image ``[B]``, p and q what teacher and student give the true class."""
    log_p, log_q = (
        tf.reduce_sum(tf.where(is_true, tf.nn.log_softmax(z), 0), axis=1)
        for z in (teacher, student)
    )
    return -tf.exp(log_p) * log_q


@register("WKD_L")
class WKD_L(Method):  # noqa: N801 (the paper's name)
    """Lv, Yang & Li, "Wasserstein distance rivals Kullback-Leibler divergence for knowledge
    distillation", NeurIPS 2024, on logits: `true_class_loss` and, gamma times, the
    `wasserstein_distance` between the probabilities of the other classes, mean over the labelled
    images.

    The distance between classes is that of the rows of the teacher's classifier, one of the costs
    in the authors' code; their CIFAR-100 runs read another from a file (CKA of features, as
    ``1 - exp(-distance)``). Other defaults are those of ResNet32x4 to ResNet8x4 there. Departure:
    gamma is constant, where they let it fall to 0 over the last 90 of 240 epochs.

    Args:
        temperature: T, divides the logits of both networks in the distance.
        gamma: weight of the distance.
        regularization: of Sinkhorn's iteration (the authors' lambda).
        iterations: number of Sinkhorn iterations.
        weight: weight relative to the main loss. None: 1, or 0.1 for a student without
            normalisation layers (at 1 such a student diverges).
    """

    paper = "Lv et al., NeurIPS 2024, arXiv 2412.08139"
    reads = Logits()
    usual_weight = 1.0
    weight_without_normalization = 0.1
    extras = ("teacher_classifier",)

    temperature: float = option(8.0, above=0)
    gamma: float = option(600.0, minimum=0)
    regularization: float = option(0.05, above=0)
    iterations: int = option(10, minimum=1)
    weight: float | None = option(None, above=0)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        kernel = classifier_kernel(self.name, "teacher", teacher)
        return self.make_loss(teacher, student, extras={"teacher_classifier": kernel})

    def loss(
        self,
        teacher: tf.Tensor,
        student: tf.Tensor,
        *,
        labels: tf.Tensor,
        teacher_classifier: tf.Tensor,
    ) -> tf.Tensor:
        classes = student.shape[-1]
        if teacher_classifier.shape[0] != classes:
            raise UserError(
                f"WKD_L needs teacher_classifier [classes, features] of {classes} classes, not one "
                f"of shape {tuple(teacher_classifier.shape)}"
            )
        is_true = tf.one_hot(tf.maximum(labels, 0), classes, True, False, dtype=tf.bool)
        q, p = (
            tf.exp(log_softmax_without(z / self.temperature, is_true)) for z in (student, teacher)
        )
        costs = class_costs(tf.stop_gradient(tf.cast(teacher_classifier, student.dtype)))
        distance = wasserstein_distance(
            q, p, is_true, costs, self.regularization, self.iterations
        )
        losses = true_class_loss(teacher, student, is_true) + self.gamma * distance
        return mean_over_labelled(losses, labels)
