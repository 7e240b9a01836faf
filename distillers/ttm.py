"""TTM: the student, without a temperature, learns a power of the teacher's probabilities."""

from __future__ import annotations

import tensorflow as tf

from distillers.loss import Combination
from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from op_util.divergence import transformed_divergence
from plugins import option


@register("TTM")
class TTM(Method):
    """Zheng & Yang, "Knowledge distillation based on transformed teacher matching", ICLR 2024.

    The weight is that of the authors' example (VGG13 to VGG8, CIFAR-100). Departures: the
    gradient is clipped (see `Combination.CLIP`); the authors add the losses, with which students
    diverge at a high rate. Their power is 0.1, which leaves nearly the same probability for every
    class and so holds back a network that has hardly begun to learn.

    Args:
        power: gamma, of the teacher's probabilities; 1 leaves them as they are.
        weight: weight relative to the main loss. None: 45, or 10 for a student without
            normalisation layers (at 45 such a student diverges).
        clip: the largest norm of this loss's gradient, as a multiple of the main task's; 1e9 adds
            the losses unclipped, as the authors do.
    """

    paper = "Zheng & Yang, ICLR 2024, arXiv 2402.11148"
    reads = Logits()
    combination = Combination.CLIP
    usual_weight = 45.0
    weight_without_normalization = 10.0

    power: float = option(0.5, above=0)
    weight: float | None = option(None, above=0)
    clip: float = option(1.0, above=0)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        """``KL(p^power / U || q)``, mean over the batch; p and q the class probabilities of teacher
        and student, and ``U = sum of p^power``."""
        divergence, _ = transformed_divergence(teacher, student, self.power)
        return tf.reduce_mean(divergence)
