"""RLD: the teacher's confidence, and its ranking of the classes below the true one."""

from __future__ import annotations

import tensorflow as tf

from distillers.loss import Combination
from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from distillers.samples import mean_over_labelled
from op_util.divergence import decoupled, kl_divergence, log_softmax_without
from op_util.vectors import z_score
from plugins import option


def confidence_divergence(
    teacher: tf.Tensor, student: tf.Tensor, labels: tf.Tensor, temperature: float
) -> tf.Tensor:
    """SCD: ``T^2 KL([t, 1 - t] || [s, 1 - s])`` of each image ``[B]``, t the teacher's largest
    probability, whatever its class, s the student's of the true class.

    Args:
        teacher, student: logits ``[B, classes]``.
        labels: int32 ``[B]``, from 0.
        temperature: T, above 0.
    """
    t, s = (
        decoupled(z / temperature, tf.one_hot(classes, z.shape[-1], True, False, dtype=tf.bool))
        for z, classes in ((teacher, tf.argmax(teacher, axis=1)), (student, labels))
    )
    return temperature**2 * kl_divergence(
        tf.stack([t.target, t.others], axis=1), tf.stack([s.target, s.others], axis=1)
    )


def ranking_divergence(
    teacher: tf.Tensor, student: tf.Tensor, labels: tf.Tensor, temperature: float
) -> tf.Tensor:
    """MCD: ``T^2 KL(teacher || student)`` of each image ``[B]``, over the classes whose teacher
    logit is below the true class's; 0 where there is none. Args as for `confidence_divergence`."""
    true_logit = tf.gather(teacher, labels, axis=1, batch_dims=1)
    left_out = teacher >= true_logit[:, None]
    theirs, ours = (log_softmax_without(z / temperature, left_out) for z in (teacher, student))
    return temperature**2 * kl_divergence(theirs, ours)


@register("RLD")
class RLD(Method):
    """Sun et al., "Knowledge distillation with refined logits", ICCV 2025:
    ``alpha SCD + beta MCD``, `confidence_divergence` and `ranking_divergence`, mean over the
    labelled images.

    Defaults are those of the authors' code for CIFAR-100. Departure: the gradient is clipped (see
    `Combination.CLIP`); the authors add the losses.

    Args:
        alpha, beta: weights of the two parts.
        temperature: T of MCD.
        alpha_temperature: T of SCD.
        standardize: whether each image's logits are standardized first, as in LogitStd.
        warmup: share of the run's epochs over which the loss grows to its full weight; 0: none (the
            authors: 20 of 240 epochs).
        weight: weight relative to the main loss. None: 1, or 0.1 for a student without
            normalisation layers (at 1 such a student diverges).
        clip: the largest norm of this loss's gradient, as a multiple of the main task's; 1e9 adds
            the losses unclipped, as the authors do.
    """

    paper = "Sun et al., ICCV 2025, arXiv 2408.07703"
    reads = Logits()
    combination = Combination.CLIP
    usual_weight = 1.0
    weight_without_normalization = 0.1

    alpha: float = option(1.0, minimum=0)
    beta: float = option(8.0, minimum=0)
    temperature: float = option(4.0, above=0)
    alpha_temperature: float = option(1.0, above=0)
    standardize: bool = option(False)
    warmup: float = option(0.083, minimum=0, maximum=1)
    weight: float | None = option(None, above=0)
    clip: float = option(1.0, above=0)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor, *, labels: tf.Tensor) -> tf.Tensor:
        if self.standardize:
            teacher, student = z_score(teacher), z_score(student)
        known = tf.maximum(labels, 0)
        scd = confidence_divergence(teacher, student, known, self.alpha_temperature)
        mcd = ranking_divergence(teacher, student, known, self.temperature)
        return mean_over_labelled(self.alpha * scd + self.beta * mcd, labels)
