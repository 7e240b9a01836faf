"""DML: two networks learn together, each from the other's class probabilities."""

from __future__ import annotations

import tensorflow as tf

from distillers.method import Method
from distillers.reading import Logits
from distillers.registration import register
from op_util.divergence import softened_divergence
from plugins import option


def mutual_divergence(teacher: tf.Tensor, student: tf.Tensor, temperature: float) -> tf.Tensor:
    """``T^2 (KL(p_teacher || p_student) + KL(p_student || p_teacher))``, mean over the batch
    (equations 6 and 7).

    The first term sends its gradient into the student only, the second into the teacher only.

    Args:
        teacher, student: logits ``[B, classes]``.
        temperature: T, above 0.
    """
    to_student = softened_divergence(tf.stop_gradient(teacher), student, temperature)
    to_teacher = softened_divergence(tf.stop_gradient(student), teacher, temperature)
    return to_student + to_teacher


@register("DML")
class DML(Method):
    """Zhang, Xiang, Hospedales & Lu, "Deep mutual learning", CVPR 2018.

    The teacher is a peer: it need not have been trained, and learns the main task and from the
    student while the student learns from it.

    Departure: both networks are updated at once, from the same predictions. The paper (algorithm 1)
    updates the first, predicts with it again, and then updates the second.

    Args:
        temperature: T, divides the logits of both networks before the softmax; 1 in the paper.
        weight: weight relative to the main losses; 1 in the paper (equations 6 and 7).
    """

    paper = "Zhang et al., CVPR 2018, arXiv 1706.00384"
    reads = Logits()
    trains_teacher = True

    temperature: float = option(1.0, above=0)
    weight: float = option(1.0, above=0)

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        return mutual_divergence(teacher, student, self.temperature)
