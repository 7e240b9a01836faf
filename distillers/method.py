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
        name: shown while it runs, and given to the loss.
        share: of the run's epochs, at least one of them; the shares of a method's stages add up to
            1.
        main_loss: whether the main task's loss is used in it.
        distillation_loss: whether the method's loss is.
        trains: which of the student's variables: ``"all"``, those that lead to its ``"taps"``, or
            ``"nothing"``.
        taps: numbers of the taps that ``trains="taps"`` means; None: all.
        layers: names of the method's own layers that it trains; None: all.
        reduction: ``"sum"`` or ``"mean"`` over the batch, where the loss in it is reduced in
            another way than the method says.
        new_optimizer: whether optimizer and schedule start afresh with it.
    """

    name: str
    share: float = 1.0
    main_loss: bool = True
    distillation_loss: bool = True
    trains: str = "all"
    taps: tuple[int, ...] | None = None
    layers: tuple[str, ...] | None = None
    reduction: str | None = None
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
        trains_teacher: whether the teacher learns too, beside the student: it then works in
            training mode, gets gradients of the main loss and of this one, is saved in checkpoints,
            and need not have been trained before.
        figures: names of what `compute` gives besides the loss.
        stages: the parts of a run.
        teacher_taps, student_taps: names of layers that the method wants as taps where nobody names
            others; None: those that the networks declare.
    """

    paper: str = ""
    reads: str | tuple[str, ...] = "maps"
    reduction: str = "mean"
    combination: str = "add"
    couples_samples: bool = False
    needs_teacher: bool = True
    trains_teacher: bool = False
    figures: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = (Stage("train"),)
    teacher_taps: tuple[str, ...] | None = None
    student_taps: tuple[str, ...] | None = None

    @property
    def main_weight(self) -> float:
        """Weight of the main loss."""
        return 1.0

    @property
    def distillation_weight(self) -> float:
        """Weight of this loss, next to the main loss."""
        return 1.0

    @property
    def terms(self) -> Sequence[Method]:
        """The methods of which this one is a sum; itself, unless it is one."""
        return (self,)

    def reading(self, features: dict[str, Any]) -> Any:
        """Of a network's features what `reads` names: one by itself, several as a dict."""
        if isinstance(self.reads, str):
            return features[self.reads]
        return {name: features[name] for name in self.reads}

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        """Layers of the method's own, made and built in `build`, each of another name. They are
        trained and saved, never exported; what is no trainable weight of theirs, such as a memory,
        is saved too."""
        return ()

    @property
    def notes(self) -> Sequence[str]:
        """What a person should know of how the method was fitted to the two networks, such as
        ``"tap 2: 1x1 adapter from 32 to 64 channels"``. Known after `build`."""
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
            **context: for a method that asks for them, and perhaps not there where it is called by
                itself: ``labels`` int32 ``[B]`` (-1: unlabelled), ``indices`` int64 ``[B]`` of the
                images, ``epoch``, and the name of the ``stage``, a str.
        """
        raise NotImplementedError

    def compute(
        self, teacher_outputs: Any, student_outputs: Any, **context: Any
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss, and the `figures` about it to be logged (means over the batch, by name)."""
        return self.compute_loss(teacher_outputs, student_outputs, **context), {}

    def begin(self, samples: int, classes: int) -> None:
        """Called once before training, ahead of `build`, for methods that keep something for each
        training image: there are `samples` of them (indices 0 to ``samples - 1``) of `classes`
        classes. Raises UserError where the method cannot work with so many."""

    def deployed(self, student: keras.Model) -> keras.Model:
        """The model to be judged and exported, from the student's input to logits. Where it is
        another than the student, it is a functional model of the tensors that `build` was given."""
        return student

    def logits(self, student: dict[str, Any]) -> tf.Tensor:
        """The deployed model's logits, from the student's ``maps``, ``embedding`` and ``logits`` in
        training; they are only logged."""
        return student["logits"]

    def settings(self) -> dict[str, Any]:
        """The hyper-parameters with their values."""
        return dataclasses.asdict(self)

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


def stage_ends(stages: Sequence[Stage], epochs: int) -> list[int]:
    """After how many epochs of a run each stage is over; each has one epoch at least.

    Raises:
        UserError: there are fewer epochs than stages.
    """
    if epochs < len(stages):
        names = ", ".join(stage.name for stage in stages)
        raise UserError(
            f"{epochs} epochs, but the method has {len(stages)} stages ({names}), of at least one "
            f"epoch each: train for {len(stages)} epochs or more"
        )
    ends, share = [], 0.0
    for number, stage in enumerate(stages, start=1):
        share += stage.share
        earliest = ends[-1] + 1 if ends else 1
        ends.append(min(max(round(share * epochs), earliest), epochs - len(stages) + number))
    return ends
