"""The student alone, the baseline of every comparison."""

from __future__ import annotations

from typing import Any

from distillers.loss import Loss, Stage, Trains
from distillers.method import Method
from distillers.registration import register
from plugins import option


@register("None")
class NoDistillation(Method):
    """No teacher: the student learns the main task alone.

    With `head_share` it is fine-tuned: first its classifier alone, which is new and would spoil
    pretrained weights by its first gradients, then all of it. Each stage has an optimizer and a
    learning rate schedule of its own.

    Args:
        head_share: share of the epochs that train the classifier alone, from 0 to 0.9.
    """

    paper = "the student by itself, without a teacher"
    reads = ()
    needs_teacher = False
    head_share: float = option(0.0, minimum=0, maximum=0.9)

    def build(
        self, teacher: Any = None, student: Any = None, *, samples: int | None = None
    ) -> Loss:
        """A loss of one or two stages that have none."""
        if not self.head_share:
            return Loss(self, [Stage()])
        classifier = Stage("classifier", self.head_share, trains=Trains.CLASSIFIER)
        everything = Stage("all", 1 - self.head_share, new_optimizer=True)
        return Loss(self, [classifier, everything])
