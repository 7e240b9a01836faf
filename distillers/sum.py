"""Several methods at once: ``SSKD_SVD+Soft_logits``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.method import Method
from registry import UserError


class Sum(keras.distillation.DistillationLoss):
    """The losses of several methods, each with its own weight, combined with one main loss.

    The weight of the main loss is the product of the methods' weights for it. Additive losses share
    one gradient with the main loss; clipped losses have their gradient clipped against it. One of
    the methods may have several stages (see `distillers.stages.run_stages`).

    Args:
        members: the methods.

    Raises:
        UserError: fewer than two methods, a repeated method, or one that needs no teacher.
    """

    def __init__(self, members: Sequence[Method]):
        self.members = tuple(members)
        names = [member.name for member in self.members]
        if len(names) < 2 or len(set(names)) < len(names):
            raise UserError(f"a sum needs two or more different methods, not {'+'.join(names)!r}")
        for member in self.members:
            if not member.needs_teacher:
                raise UserError(f"{member.name} has no distillation loss; leave it out of the sum")

    @property
    def name(self) -> str:
        """``A+B``."""
        return "+".join(member.name for member in self.members)

    @property
    def paper(self) -> str:
        """The methods' publications."""
        return "; ".join(member.paper for member in self.members)

    @property
    def needs_teacher(self) -> bool:
        """True."""
        return True

    @property
    def trains_teacher(self) -> bool:
        """Whether any method trains the teacher too."""
        return any(member.trains_teacher for member in self.members)

    def does_read(self, key: str) -> bool:
        """Whether any method reads ``"maps"``, ``"embedding"`` or ``"logits"``."""
        return any(member.does_read(key) for member in self.members)

    def settings(self) -> dict[str, Any]:
        """All hyper-parameters, as ``METHOD.name``."""
        return {
            f"{member.name}.{key}": value
            for member in self.members for key, value in member.settings().items()
        }

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **context: Any) -> tf.Tensor:
        """The sum of the methods' losses, each times its weight in training. Of a method with
        several stages it is the last one that has a loss.

        Args:
            teacher_outputs, student_outputs: dicts with all features that the methods read.
            **context: see `Method.compute_loss`; each method gets the arguments that it takes.

        Raises:
            TypeError: no method takes one of the keyword arguments.
        """
        for name in context:
            if not any(member.takes(name) for member in self.members):
                raise TypeError(f"{self.name} takes no {name}")
        total = 0.0
        for member in self.members:
            teacher, student = map(member.select, (teacher_outputs, student_outputs))
            given = {name: value for name, value in context.items() if member.takes(name)}
            built = member.built_alone(teacher, student)
            loss = built.compute_loss(teacher, student, **given)
            total += built.stage().weight * tf.cast(loss, tf.float32)
        return total
