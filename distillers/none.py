"""The student alone, the baseline of every comparison."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from distillers.method import Method
from distillers.registration import register


@register("None")
@dataclasses.dataclass(eq=False)
class NoDistillation(Method):
    """No teacher: the student learns the main task alone."""

    paper = "the student by itself, without a teacher"
    reads = ()
    needs_teacher = False

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **context: Any) -> tf.Tensor:
        """Zero."""
        return tf.constant(0.0)
