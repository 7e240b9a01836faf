"""Several methods at once: ``SSKD_SVD+Soft_logits``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.method import Method, Stage
from distillers.registration import name_of
from registry import UserError


@dataclasses.dataclass(eq=False)
class Sum(Method):
    """The losses of several methods, each with its own weight, next to one main loss.

    The weight of the main loss is the product of those that the methods give it. Losses that are
    added make one gradient with the main loss; those that are clipped are clipped against it. One
    of the methods may have stages; the others then take part in those with a main loss.

    Args:
        members: the methods.

    Raises:
        UserError: fewer than two methods, one of them twice, one that deploys a model of its own
            or needs no teacher, or two that have stages.
    """

    members: tuple[Method, ...]

    def __post_init__(self) -> None:
        names = [name_of(type(member)) for member in self.members]
        if len(names) < 2 or len(set(names)) < len(names):
            raise UserError(f"a sum is of two or more different methods, not {'+'.join(names)!r}")
        for name, member in zip(names, self.members, strict=True):
            if not member.needs_teacher:
                raise UserError(f"{name} has no loss to be summed; leave it out of the sum")
            if type(member).deployed is not Method.deployed:
                raise UserError(f"{name} deploys a model of its own, so it cannot be in a sum")
        staged = [
            name for name, member in zip(names, self.members, strict=True)
            if len(member.stages) > 1
        ]
        if len(staged) > 1:
            raise UserError(f"a sum can have one method with stages, not {' and '.join(staged)}")

    @property
    def terms(self) -> Sequence[Method]:
        return self.members

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        read = [each.reads for each in self.members]
        read = [(each,) if isinstance(each, str) else each for each in read]
        return tuple(dict.fromkeys(name for each in read for name in each))

    @property
    def paper(self) -> str:  # type: ignore[override]
        return "; ".join(member.paper for member in self.members)

    @property
    def trains_teacher(self) -> bool:  # type: ignore[override]
        return any(member.trains_teacher for member in self.members)

    @property
    def figures(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(name for member in self.members for name in member.figures)

    @property
    def stages(self) -> tuple[Stage, ...]:  # type: ignore[override]
        return max((member.stages for member in self.members), key=len)

    @property
    def main_weight(self) -> float:
        return math.prod(member.main_weight for member in self.members)

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        return [layer for member in self.members for layer in member.layers]

    @property
    def notes(self) -> Sequence[str]:
        return [note for member in self.members for note in member.notes]

    def begin(self, samples: int, classes: int) -> None:
        for member in self.members:
            member.begin(samples, classes)

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **context: Any) -> tf.Tensor:
        """The weighted sum of the methods' losses.

        Args:
            teacher_outputs, student_outputs: dicts of all that the methods read.
        """
        total = 0.0
        for member in self.members:
            teacher, student = map(member.reading, (teacher_outputs, student_outputs))
            loss, _ = member.compute(teacher, student, **context)  # with the stage's weight
            total += member.distillation_weight * tf.cast(loss, tf.float32)
        return total

    def settings(self) -> dict[str, Any]:
        return {
            f"{name_of(type(member))}.{key}": value
            for member in self.members for key, value in member.settings().items()
        }
