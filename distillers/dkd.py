"""DKD: what the teacher knows of the target class and of the others, each with its own weight."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from distillers.samples import mean_over_labelled
from plugins import option


class Decoupled(NamedTuple):
    """Class probabilities in the parts that DKD compares (section 3.1), as logarithms.

    Attributes:
        target: of the target class, ``[B]``.
        others: of all other classes together, ``[B]``.
        among_others: of each other class, given that it is one of them, ``[B, classes]``; the
            target class has a log-probability so low that its probability is 0.
    """

    target: tf.Tensor
    others: tf.Tensor
    among_others: tf.Tensor


def decoupled(logits: tf.Tensor, is_target: tf.Tensor) -> Decoupled:
    """The parts of ``softmax(logits)``. Args: ``[B, classes]`` both, `is_target` one-hot bool."""
    log_sum = tf.reduce_logsumexp(logits, axis=1)
    # Finite, and the same in both networks: 0 is what it adds to the divergence.
    low = tf.constant(-1e9, logits.dtype)
    other_logits = tf.where(is_target, low, logits)
    log_others = tf.reduce_logsumexp(other_logits, axis=1)
    among_others = tf.where(is_target, low, logits - log_others[:, None])
    target = tf.reduce_sum(tf.where(is_target, logits, 0), axis=1)
    return Decoupled(target - log_sum, log_others - log_sum, among_others)


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
    tckd = tf.exp(theirs.target) * (theirs.target - ours.target)
    tckd += tf.exp(theirs.others) * (theirs.others - ours.others)
    among = tf.exp(theirs.among_others) * (theirs.among_others - ours.among_others)
    nckd = tf.reduce_sum(among, axis=1)
    return temperature**2 * (alpha * tckd + beta * nckd)


@register("DKD")
class DKD(Method):
    """Zhao, Cui, Song, Qiu & Liang, "Decoupled knowledge distillation", CVPR 2022.

    Defaults are those of mdistiller, the authors' code. An unlabelled image has no target class and
    is left out of the mean.

    Args:
        temperature: T, divides the logits of both networks.
        alpha: weight of the target class' part (TCKD).
        beta: weight of the other classes' part (NCKD).
        warmup: share of the run's epochs over which the loss grows to its full weight; 0: none
            (mdistiller: 20 of 240 epochs).
        weight: of this loss, next to the main loss.
    """

    paper = "Zhao et al., CVPR 2022, arXiv 2203.08679"
    reads = Logits()

    temperature: float = option(4.0, above=0)
    alpha: float = option(1.0, minimum=0)
    beta: float = option(8.0, minimum=0)
    warmup: float = option(0.083, minimum=0, maximum=1)
    weight: float = option(1.0, above=0)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor, *, labels: tf.Tensor) -> tf.Tensor:
        divergence = decoupled_divergence(
            teacher, student, tf.maximum(labels, 0), self.temperature, self.alpha, self.beta
        )
        return mean_over_labelled(divergence, labels)
