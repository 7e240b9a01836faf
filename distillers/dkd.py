"""DKD: what the teacher knows of the target class and of the others, each with its own weight."""

from __future__ import annotations

import tensorflow as tf

from distillers.loss import Combination
from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from distillers.samples import mean_over_labelled
from op_util.divergence import decoupled, kl_divergence
from plugins import option


def decoupled_divergence(
    teacher: tf.Tensor, student: tf.Tensor, labels: tf.Tensor,
    temperature: float, alpha: float, beta: float,
) -> tf.Tensor:
    """``T^2 (alpha TCKD + beta NCKD)`` of each image ``[B]`` (equation 7).

    Args:
        teacher, student: logits ``[B, classes]``.
        labels: int32 ``[B]``, from 0.
        temperature: T, above 0.
        alpha, beta: weights of the target class' part and of the other classes'.
    """
    is_target = tf.one_hot(labels, student.shape[-1], True, False, dtype=tf.bool)
    theirs, ours = (decoupled(z / temperature, is_target) for z in (teacher, student))
    tckd = kl_divergence(*(tf.stack([p.target, p.others], axis=1) for p in (theirs, ours)))
    nckd = kl_divergence(theirs.among_others, ours.among_others)
    return temperature**2 * (alpha * tckd + beta * nckd)


@register("DKD")
class DKD(Method):
    """Zhao, Cui, Song, Qiu & Liang, "Decoupled knowledge distillation", CVPR 2022.

    Defaults are those of mdistiller, the authors' code. An unlabelled image has no target class and
    is left out of the mean. Departure: the gradient is clipped (see `Combination.CLIP`); the
    authors add the losses.

    Args:
        temperature: T, divides the logits of both networks.
        alpha: weight of the target class' part (TCKD).
        beta: weight of the other classes' part (NCKD).
        warmup: share of the run's epochs over which the loss grows to its full weight; 0: none
            (mdistiller: 20 of 240 epochs).
        weight: weight relative to the main loss. None: 1, or 0.1 for a student without
            normalisation layers (at 1 such a student diverges).
        clip: the largest norm of this loss's gradient, as a multiple of the main task's; 1e9 adds
            the losses unclipped, as the authors do.
    """

    paper = "Zhao et al., CVPR 2022, arXiv 2203.08679"
    reads = Logits()
    combination = Combination.CLIP
    usual_weight = 1.0
    weight_without_normalization = 0.1

    temperature: float = option(4.0, above=0)
    alpha: float = option(1.0, minimum=0)
    beta: float = option(8.0, minimum=0)
    warmup: float = option(0.083, minimum=0, maximum=1)
    weight: float | None = option(None, above=0)
    clip: float = option(1.0, above=0)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor, *, labels: tf.Tensor) -> tf.Tensor:
        divergence = decoupled_divergence(
            teacher, student, tf.maximum(labels, 0), self.temperature, self.alpha, self.beta
        )
        return mean_over_labelled(divergence, labels)
