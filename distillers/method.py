"""What every distillation method is, and what it may declare about itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from registry import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a training run.

    Attributes:
        name: shown while it runs.
        share: of the run's epochs; the shares of a method's stages add up to 1.
        main_loss: whether the main task's loss is used in it.
        distillation_loss: whether the method's loss is.
        trains: ``"all"`` variables of the student, or only those that lead to its ``"taps"``.
        new_optimizer: whether optimizer and schedule start afresh with it.
    """

    name: str
    share: float = 1.0
    main_loss: bool = True
    distillation_loss: bool = True
    trains: str = "all"
    new_optimizer: bool = False


class Method(keras.distillation.DistillationLoss):
    """A distillation loss, and how it takes part in training.

    A method is a dataclass: its fields are its hyper-parameters. It overrides `compute_loss` and,
    where they differ, the class attributes below.

    Attributes:
        paper: where the method was published.
        reads: what of the networks the loss compares: ``"maps"`` (list of taps, shallow to deep),
            ``"embedding"`` or ``"logits"``; of several, `compute_loss` gets a dict.
        reduction: ``"sum"`` or ``"mean"`` over the batch: how the losses of a batch's parts add up.
        combination: ``"clip"``: the distillation gradient is clipped against the main task's, per
            variable (Lee, Kim, Song 2018); ``"add"``: the losses are added.
        couples_samples: whether a sample's loss depends on others of the batch, so that the loss
            has to see the global batch.
        needs_teacher: whether there is a teacher at all.
        figures: names of what `compute` gives besides the loss.
        stages: the parts of a run.
    """

    paper: str = ""
    reads: str | tuple[str, ...] = "maps"
    reduction: str = "mean"
    combination: str = "add"
    couples_samples: bool = False
    needs_teacher: bool = True
    figures: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = (Stage("train"),)

    @property
    def main_weight(self) -> float:
        """Weight of the main loss."""
        return 1.0

    @property
    def distillation_weight(self) -> float:
        """Weight of this loss, next to the main loss."""
        return 1.0

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        """Layers of the method's own, made in `build`; trained and saved, never exported."""
        return ()

    def build(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Look at the symbolic outputs that `compute_loss` will get, before anything is trained.

        Raises:
            UserError: they do not fit the method.
        """

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **context: Any) -> tf.Tensor:
        """The distillation loss, a scalar.

        Args:
            teacher_outputs, student_outputs: what `reads` names.
            **context: ``label`` int32 ``[B]`` (-1: unlabelled), ``index`` int64 ``[B]`` and the
                ``epoch``, for a method that asks for them.
        """
        raise NotImplementedError

    def compute(
        self, teacher_outputs: Any, student_outputs: Any, **context: Any
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss, and the `figures` about it to be logged (means over the batch, by name)."""
        return self.compute_loss(teacher_outputs, student_outputs, **context), {}

    def deployed(self, student: keras.Model) -> keras.Model:
        """The model to be exported."""
        return student

    @classmethod
    def hyper_parameters(cls) -> dict[str, dataclasses.Field]:
        """The method's hyper-parameters by name."""
        return {field.name: field for field in dataclasses.fields(cls)}

    @classmethod
    def configured(cls, name: str, **given: Any) -> Method:
        """The method with the hyper-parameters `given`, each converted to its default's type.

        Raises:
            UserError: the method has no such hyper-parameter, or the value is of another type.
        """
        known = cls.hyper_parameters()
        values = {}
        for key, value in given.items():
            if key not in known:
                has = ", ".join(known) or "none"
                raise UserError(
                    f"{name} has no hyper-parameter {key!r}{nearest(key, known)}; it has: {has}"
                )
            values[key] = _converted(name, key, value, type(known[key].default))
        return cls(**values)


def _converted(method: str, name: str, value: Any, kind: type) -> Any:
    """`value`, perhaps text, as a `kind`."""
    words = {"true": True, "false": False, "1": True, "0": False}
    try:
        return words[str(value).lower()] if kind is bool else kind(value)
    except (ValueError, KeyError):
        raise UserError(f"{method}: {name} must be {kind.__name__}, not {value!r}") from None
