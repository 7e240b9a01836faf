"""DML: two networks learn together, each from the other's class probabilities."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from distillers.checks import positive, same_classes
from distillers.method import Method
from distillers.registration import register
from op_util.precision import at_least_float32


@register("DML")
@dataclasses.dataclass(eq=False)
class DML(Method):
    """Zhang, Xiang, Hospedales & Lu, "Deep mutual learning", CVPR 2018.

    The teacher is a peer: it need not have been trained, and learns the main task and from the
    student while the student learns from it.

    Args:
        temperature: T, divides the logits of both networks before the softmax; 1 in the paper.
        weight: of this loss, next to the main losses; 1 in the paper (equations 6 and 7).
    """

    paper = "Zhang et al., CVPR 2018, arXiv 1706.00384"
    reads = "logits"
    trains_teacher = True

    temperature: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        positive("DML", temperature=self.temperature, weight=self.weight)

    @property
    def distillation_weight(self) -> float:
        return self.weight

    def build(self, teacher_outputs: Any, student_outputs: Any) -> None:
        same_classes("DML", teacher_outputs, student_outputs)

    def compute_loss(
        self, teacher_outputs: tf.Tensor, student_outputs: tf.Tensor, **context: Any
    ) -> tf.Tensor:
        """``T^2 (KL(p_teacher || p_student) + KL(p_student || p_teacher))``, mean over the batch.

        The first term sends its gradient into the student only, the second into the teacher only.

        Args:
            teacher_outputs, student_outputs: logits ``[B, classes]``.
        """
        student = at_least_float32(student_outputs)
        teacher = tf.cast(at_least_float32(teacher_outputs), student.dtype)
        student, teacher = (
            tf.nn.log_softmax(logits / self.temperature) for logits in (student, teacher)
        )
        divergence = _divergence(tf.stop_gradient(teacher), student)
        divergence += _divergence(tf.stop_gradient(student), teacher)
        return self.temperature**2 * tf.reduce_mean(divergence)


def _divergence(target: tf.Tensor, learner: tf.Tensor) -> tf.Tensor:
    """``KL(target || learner)``, ``[B]``, of log-probabilities ``[B, classes]``."""
    return tf.reduce_sum(tf.exp(target) * (target - learner), axis=1)
