"""SRD: a simple recipe, the student's normalised embedding is drawn to the teacher's."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from distillers.adapters import linear
from distillers.loss import Combination, Context, Loss
from distillers.method import Method
from distillers.reading import Embedding
from distillers.registration import register
from plugins import option

EPSILON = 1e-4  # added to variances; the authors' code
SMALLEST = 1e-30  # sum of powers whose logarithm is taken


def standardized(samples: tf.Tensor) -> tf.Tensor:
    """Samples ``[B, D]`` minus their mean, over their standard deviation: batch normalisation
    without learned scale and bias."""
    mean, variance = tf.nn.moments(samples, axes=[0])
    return (samples - mean) * tf.math.rsqrt(variance + EPSILON)


def log_sum_loss(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """``log sum (n(student) - n(teacher))^4`` over the batch and all features, n `standardized`.

    Args:
        teacher, student: embeddings ``[B, D]`` of equal D.
    """
    powers = tf.pow(standardized(student) - standardized(teacher), 4)
    # Where nothing differs the logarithm is finite, and there is no gradient.
    return tf.math.log(tf.maximum(tf.reduce_sum(powers), SMALLEST))


@register("SRD")
class SRD(Method):
    """Miles & Mikolajczyk, "Understanding the role of the projector in knowledge distillation",
    AAAI 2024 (Simple Recipe Distillation): the `log_sum_loss` of embeddings, the student's through
    a linear projector.

    Statistics are those of the global batch. The weight is that of the authors' ImageNet code; none
    for CIFAR-100 is published. Departures: they add the divergence of the logits at temperature 1,
    which is left to a sum of methods. The gradient, which does not shrink with the loss, is clipped
    (see `Combination.CLIP`); the authors add the losses.

    Args:
        projector: ``"linear"``: a dense layer to the teacher's width, trained with the student;
            ``"none"``: none, which needs equal widths.
        weight: weight relative to the main loss.
        clip: the largest norm of this loss's gradient, as a multiple of the main task's; 1e9 adds
            the losses unclipped, as the authors do.
    """

    paper = "Miles & Mikolajczyk, AAAI 2024, arXiv 2303.11098"
    couples_samples = True
    combination = Combination.CLIP

    projector: str = option("linear", choices=("linear", "none"))
    weight: float = option(2.0, above=0)
    clip: float = option(1.0, above=0)

    @property
    def reads(self) -> Embedding:  # type: ignore[override]
        return Embedding(widths="any" if self.projector == "linear" else "equal")

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        if self.projector == "none":
            return self.make_loss(teacher, student)
        projector = linear(student, teacher.shape[-1], name="projector")

        def loss(teacher: tf.Tensor, student: tf.Tensor, context: Context) -> tf.Tensor:
            return self.loss(teacher, tf.cast(projector(student), student.dtype))

        note = f"projector from {student.shape[-1]} to {teacher.shape[-1]} features"
        return self.make_loss(teacher, student, loss, layers=[projector], notes=[note])

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        return log_sum_loss(teacher, student)
