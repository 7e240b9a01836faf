"""The student alone, the baseline of every comparison."""

from __future__ import annotations

from typing import Any

from distillers.loss import Loss, Stage
from distillers.method import Method
from distillers.registration import register


@register("None")
class NoDistillation(Method):
    """No teacher: the student learns the main task alone."""

    paper = "the student by itself, without a teacher"
    reads = ()
    needs_teacher = False

    def build(
        self, teacher: Any = None, student: Any = None, *, samples: int | None = None
    ) -> Loss:
        """A loss of one stage that has none."""
        return Loss(self, [Stage()])
