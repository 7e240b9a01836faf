"""What every distillation method is: an immutable specification that makes its loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import keras
import tensorflow as tf

from distillers.adapters import Adapters
from distillers.loss import Combination, Context, Loss, LossFunction, Reduction, Stage
from distillers.reading import Maps, Reading, as_taps
from distillers.structure import has_normalization
from plugins import Plugin
from registry import UserError

_CONTEXT = set(Context._fields) - {"extras"}


class Method(Plugin, keras.distillation.DistillationLoss):
    """A distillation method.

    Its fields are its hyper-parameters. Most methods write their formula in `loss`. One with
    layers or stages of its own overrides `build`, which makes them for two networks; the method
    itself never changes.

    Attributes:
        paper: where it was published.
        reads: what of the networks the loss compares, a `Reading`, or several, which the loss then
            gets as a dict.
        reduction: of the loss over the batch.
        combination: how its gradient meets the main task's.
        couples_samples: whether an image's loss depends on others of the batch, so that the loss
            has to see the global batch.
        needs_teacher: whether there is a teacher at all.
        trains_teacher: whether the teacher learns too, together with the student: it then works in
            training mode, gets gradients of the main loss and of this one, is saved in checkpoints,
            and need not have been trained before.
        metrics: names of what the loss gives besides its value.
        extras: names of further keyword-only parameters of `loss`, such as the teacher's
            classifier. `build` finds them in symbolic networks, or a training step computes them
            (`Loss.projected`); where the loss is called by itself, the caller gives them.
        usual_weight: the loss's weight if the hyper-parameter `weight` is None.
        weight_without_normalization: likewise, for a student without normalisation layers, whose
            features and gradients are of another size; None: the same.

    Hyper-parameters of four names have a fixed meaning, and `make_loss` passes them on: ``weight``
    of this loss (None: `usual_weight`); ``main_weight`` of the main loss; ``warmup``, the share of
    the run's epochs over which `weight` grows; ``clip`` of ``Combination.CLIP``, the largest norm
    of this loss's gradient, as a multiple of the main task's.
    """

    reads: ClassVar[Reading | tuple[Reading, ...]] = Maps()
    reduction: ClassVar[Reduction] = Reduction.MEAN
    combination: ClassVar[Combination] = Combination.ADD
    couples_samples: ClassVar[bool] = False
    needs_teacher: ClassVar[bool] = True
    trains_teacher: ClassVar[bool] = False
    metrics: ClassVar[tuple[str, ...]] = ()
    extras: ClassVar[tuple[str, ...]] = ()
    usual_weight: ClassVar[float] = 1.0
    weight_without_normalization: ClassVar[float | None] = None

    # What a method says

    def loss(self, teacher: Any, student: Any) -> Any:
        """The loss, a scalar, or a pair of it and a dict of `metrics`.

        Args:
            teacher, student: what `reads` names, prepared: of one type, at least float32, the
                teacher's without a gradient.

        A method asks for labels, indices, the epoch, whether it is training, or one of its `extras`
        by keyword-only parameters of these names: ``def loss(self, teacher, student, *, labels)``.
        """
        raise NotImplementedError

    @classmethod
    def needs_labels(cls) -> bool:
        """Whether the loss cannot do without labels."""
        labels = inspect.signature(cls.loss).parameters.get("labels")
        return labels is not None and labels.default is inspect.Parameter.empty

    @property
    def main_weight(self) -> float:
        """Weight of the main loss."""
        return 1.0

    @property
    def distillation_weight(self) -> float:
        """Weight of this loss next to the main loss, for a network with normalisation layers."""
        weight = getattr(self, "weight", None)
        return self.usual_weight if weight is None else weight

    def weight_for(self, student: Any) -> tuple[float, list[str]]:
        """The weight of this loss for a network, and a note where its structure decides.

        Args:
            student: the features that `reads` names, symbolic.
        """
        other = self.weight_without_normalization
        if getattr(self, "weight", None) is not None or other is None or has_normalization(student):
            return self.distillation_weight, []
        return other, [
            f"weight {other:g} (with normalisation layers in the student it would be "
            f"{self.usual_weight:g}; set another with {self.name}(weight=...))"
        ]

    def taps(self, teacher: keras.Model, student: keras.Model) -> tuple[Any, Any]:
        """Names of the layers of teacher and student that the method wants as taps where nobody
        names others; None: those that the networks declare."""
        return None, None

    def build(
        self, teacher: Any, student: Any, *, samples: int | None = None
    ) -> Loss:
        """The method's loss for two networks.

        Args:
            teacher, student: the features that `reads` names, symbolic or not, by which the
                method is fitted to the networks.
            samples: how many training images there are, for a method that keeps something for each
                (their indices are 0 to ``samples - 1``).

        Raises:
            UserError: the networks do not fit the method.
        """
        return self.make_loss(teacher, student)

    def pictures(self, teacher: Any, student: Any) -> dict[str, tuple[list[Any], list[Any]]]:
        """What is worth a picture after training.

        Args:
            teacher, student: the features that `reads` names, of a few images.

        Returns:
            For each picture, by name, spatial maps ``[B, H, W]`` of the teacher's and the student's
            taps, to be drawn side by side.
        """
        return {}

    # What the parts of this package ask

    @property
    def members(self) -> Sequence[Method]:
        """The methods of a sum; this one alone."""
        return (self,)

    @property
    def readings(self) -> tuple[Reading, ...]:
        """`reads` as a tuple."""
        return self.reads if isinstance(self.reads, tuple) else (self.reads,)

    def does_read(self, key: str) -> bool:
        """Whether the method reads ``"maps"``, ``"embedding"``, ``"logits"`` or ``"outputs"``."""
        return any(reading.key == key for reading in self.readings)

    def select(self, features: Mapping[str, Any]) -> Any:
        """Of a network's features those that the method reads."""
        if not isinstance(self.reads, tuple):
            return features[self.reads.key]
        return {reading.key: features[reading.key] for reading in self.reads}

    def prepare(self, teacher: Any, student: Any) -> tuple[Any, Any]:
        """The selected features of both networks as the loss gets them."""
        learns = self.trains_teacher
        if not isinstance(self.reads, tuple):
            return self.reads.prepare(teacher, student, learns=learns)
        pairs = {
            each.key: each.prepare(teacher[each.key], student[each.key], learns=learns)
            for each in self.reads
        }
        return {key: pair[0] for key, pair in pairs.items()}, {
            key: pair[1] for key, pair in pairs.items()
        }

    def check_features(self, teacher: Any, student: Any) -> list[str]:
        """Check the selected features of both networks, and return notes on how they are compared.

        Raises:
            UserError: they do not fit the method.
        """
        if not isinstance(self.reads, tuple):
            return self.reads.check(self.name, teacher, student)
        return [
            note for each in self.reads
            for note in each.check(self.name, teacher[each.key], student[each.key])
        ]

    def make_loss(
        self,
        teacher: Any,
        student: Any,
        loss: LossFunction | None = None,
        *,
        layers: Sequence[keras.layers.Layer] = (),
        notes: Sequence[str] = (),
        extras: Mapping[str, Callable[[], Any]] = MappingProxyType({}),
        **stage: Any,
    ) -> Loss:
        """A loss of one stage, after the features were checked.

        Args:
            teacher, student: see `build`.
            loss: None: the method's own `loss`.
            layers: the method's layers, trained together with the student.
            notes: beside those of the readings.
            extras: by name, functions that give what the method's own `loss` asks for, or None.
            **stage: fields of the `Stage` that differ from what the method says.
        """
        notes = [*self.check_features(teacher, student), *notes]
        extras = {name: _nothing for name in self.extras} | dict(extras)
        loss = loss or with_context(self.loss, self.name, extras)
        layers = list(layers)
        if isinstance(self.reads, Maps) and self.reads.channels == "adapt":
            adapters = Adapters(self.reads.pairs(as_taps(teacher), as_taps(student)))
            loss = adapters.before(loss)
            layers += adapters.layers
            notes += adapters.notes
        weight, weight_notes = self.weight_for(student)
        notes += weight_notes
        facts = {
            "loss": loss, "weight": weight, "main_weight": self.main_weight,
            "warmup": getattr(self, "warmup", 0.0), "clip": getattr(self, "clip", 1.0),
            "layers": layers, "reduction": self.reduction,
        }
        return Loss(self, [Stage(**(facts | stage))], layers=layers, notes=notes)

    # By itself

    def compute(
        self, teacher_outputs: Any, student_outputs: Any, *, stage: str | None = None,
        **context: Any,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss, unweighted, and the method's metrics. Arguments: see `compute_loss`."""
        loss = self.built_alone(teacher_outputs, student_outputs)
        return loss.compute(
            teacher_outputs, student_outputs, self.context(**context), loss.stage(stage)
        )

    def built_alone(self, teacher_outputs: Any, student_outputs: Any) -> Loss:
        """The loss, built for the outputs at hand. Raises UserError as `compute_loss`."""
        loss = self.build(teacher_outputs, student_outputs)
        if loss.layers:
            raise UserError(
                f"{self.name} has layers of its own, made for two networks: loss = "
                f"{self.name}(...).build(teacher_outputs, student_outputs), then "
                "loss.compute_loss(teacher_outputs, student_outputs)"
            )
        return loss

    def context(self, **given: Any) -> Context:
        """A `Context` of keyword arguments.

        Raises:
            TypeError: one of them is neither a field of `Context` nor among the method's `extras`.
        """
        unknown = [name for name in given if not self.takes(name)]
        if unknown:
            raise TypeError(f"{self.name} takes no {', '.join(unknown)}")
        return Context.of(**given)

    def takes(self, name: str) -> bool:
        """Whether `compute_loss` has a keyword argument `name`."""
        return name in _CONTEXT or name in self.extras

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **context: Any) -> tf.Tensor:
        """The loss, unweighted, a scalar.

        Args:
            teacher_outputs, student_outputs: what `reads` names: one kind of features by itself,
                several as a dict.
            **context: ``labels``, ``indices`` or ``epoch``, for a method that asks for them (see
                `Context`), its `extras`, and the name of a ``stage``.

        Raises:
            UserError: the features do not fit the method, or it has layers, which `build` makes.
        """
        return self.compute(teacher_outputs, student_outputs, **context)[0]


def with_context(
    function: Callable[..., Any],
    name: str,
    extras: Mapping[str, Callable[[], Any]] = MappingProxyType({}),
) -> LossFunction:
    """`function` called with what it names as keyword-only parameters.

    Args:
        function: takes teacher, student, and parts of a `Context` by name.
        name: the method's, for messages.
        extras: the method's, by name: functions that give one where the context does not, or None.

    Raises:
        TypeError: `function` names what is neither in a `Context` nor among the `extras`.
        UserError: (from the returned function) a parameter without a default is missing.
    """
    parameters = inspect.signature(function).parameters.values()
    asked = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    unknown = asked.keys() - _CONTEXT - extras.keys()
    if unknown:
        raise TypeError(f"{name} asks for {sorted(unknown)}; there are {', '.join(_CONTEXT)}")

    def value(key: str, context: Context) -> Any:
        if key in _CONTEXT:
            return getattr(context, key)
        found = context.extras.get(key)
        return extras[key]() if found is None else found

    def loss(teacher: Any, student: Any, context: Context) -> Any:
        given = {key: value(key, context) for key in asked}
        for key, default in asked.items():
            if given[key] is None and default is inspect.Parameter.empty:
                raise UserError(
                    f"{name} needs {key}: compute_loss(..., {key}={key}), or for fit arrays, or "
                    "batches that are dicts"
                )
        return function(teacher, student, **given)

    return loss


def _nothing() -> None:
    """The value of an extra that nobody provides."""
