"""WTTM: TTM with a weight per image that grows with the teacher's uncertainty."""

from __future__ import annotations

import tensorflow as tf

from distillers.loss import Combination
from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from op_util.divergence import transformed_divergence
from plugins import option


def weighted_divergence(teacher: tf.Tensor, student: tf.Tensor, power: float) -> tf.Tensor:
    """``U KL(p^power / U || q)`` with ``U = sum of p^power``, mean over the batch. Args
    as for `op_util.divergence.transformed_divergence`."""
    divergence, total = transformed_divergence(teacher, student, power)
    return tf.reduce_mean(total * divergence)


@register("WTTM")
class WTTM(Method):
    """Zheng & Yang, "Knowledge distillation based on transformed teacher matching", ICLR 2024, with
    a weight for each image.

    The weight is that of the authors' example (VGG13 to VGG8, CIFAR-100, there next to CRD).
    Departures: the gradient is clipped (see `Combination.CLIP`); the authors add the losses, with
    which students diverge at a high rate. Their power is 0.2, which leaves nearly the same
    probability for every class and so holds back a network that has hardly begun to learn.

    Args:
        power: gamma, of the teacher's probabilities; 1 leaves them as they are, and all weights 1.
        weight: weight relative to the main loss.
        clip: the largest norm of this loss's gradient, as a multiple of the main task's; 1e9 adds
            the losses unclipped, as the authors do.
    """

    paper = "Zheng & Yang, ICLR 2024, arXiv 2402.11148"
    reads = Logits()
    combination = Combination.CLIP

    power: float = option(0.5, above=0)
    weight: float = option(4.0, above=0)
    clip: float = option(1.0, above=0)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        return weighted_divergence(teacher, student, self.power)
