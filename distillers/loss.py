"""What a method becomes for two networks: its loss, its layers, and the stages of a run."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import tensorflow as tf

from registry import UserError

if TYPE_CHECKING:
    from distillers.method import Method


class Reduction(enum.Enum):
    """How the losses of a batch's parts add up to that of the batch."""

    MEAN = "mean"
    SUM = "sum"


class Combination(enum.Enum):
    """How the distillation gradient meets the main task's.

    ADD: the losses are added. CLIP: for each variable, the distillation gradient is clipped to
    ``clip`` times the norm of the main task's, times ``sigmoid(epoch)`` (Lee, Kim & Song 2018,
    section 3.3, where ``clip`` is 1).

    Many methods are clipped here although their authors add the losses: the gradient of such a loss
    can be many times the main task's, and students of few steps then hardly learn that task. With
    ``clip=1e9`` nothing is clipped.
    """

    ADD = "add"
    CLIP = "clip"


class Trains(enum.Enum):
    """Which of the student's variables a stage trains: all, those that lead to its taps, those of
    its classifier, or none. With the last two the student works in inference mode."""

    ALL = "all"
    TO_TAPS = "to_taps"
    CLASSIFIER = "classifier"
    NOTHING = "nothing"


class Context(NamedTuple):
    """What a loss may ask for beside the features.

    Attributes:
        labels: int32 ``[B]``, -1 where an image has none; None where the loss is called alone
            without them.
        indices: int64 ``[B]``, each image's number in the training data, or None.
        epoch: int32 scalar, the epoch of the run, from 0, or None.
        training: whether layers work in training mode and memories are updated.
        extras: what a method asks for that no other does, by name (see `Method.extras`).
    """

    labels: tf.Tensor | None = None
    indices: tf.Tensor | None = None
    epoch: tf.Tensor | None = None
    training: bool = False
    extras: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def of(cls, **given: Any) -> Context:
        """From keyword arguments: what is no field of this is one of the `extras`."""
        if given.get("labels") is not None:
            given["labels"] = tf.cast(tf.convert_to_tensor(given["labels"]), tf.int32)
        fields = {name: value for name, value in given.items() if name in cls._fields}
        return cls(**fields, extras={k: v for k, v in given.items() if k not in fields})


# From the prepared features of teacher and student: the loss, or the loss and metrics by name.
LossFunction = Callable[[Any, Any, Context], tf.Tensor | tuple[tf.Tensor, Mapping[str, tf.Tensor]]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a training run, with the losses and variables it uses.

    Attributes:
        name: shown while it runs.
        share: of the run's epochs, at least one of them; the shares of a method's stages add up
            to 1.
        loss: the distillation loss; None: the stage has none.
        weight: of the distillation loss.
        warmup: share of the run's epochs over which `weight` grows to its full size.
        main_weight: of the main task's loss; 0: the stage does without labels.
        trains: which of the student's variables.
        taps: numbers of the taps that ``Trains.TO_TAPS`` means; None: all.
        layers: the method's own layers that it trains.
        reduction: of the loss over the batch.
        combination: how its gradient meets the main task's; None: as the method says.
        clip: of ``Combination.CLIP``: the largest norm of its gradient, as a multiple of the main
            task's.
        new_optimizer: whether optimizer and learning rate schedule start afresh with it.
    """

    name: str = "train"
    share: float = 1.0
    loss: LossFunction | None = None
    weight: float = 1.0
    warmup: float = 0.0
    main_weight: float = 1.0
    trains: Trains = Trains.ALL
    taps: tuple[int, ...] | None = None
    layers: Sequence[keras.layers.Layer] = ()
    reduction: Reduction = Reduction.MEAN
    combination: Combination | None = None
    clip: float = 1.0
    new_optimizer: bool = False


class Loss(keras.distillation.DistillationLoss):
    """A method, built for two networks. It is a Keras distillation loss.

    Attributes:
        method: the specification it was built from.
        stages: the parts of a run.
        layers: all of the method's own layers, built, each of another name. They are trained and
            saved with the training, and never exported.
        notes: what a person should know of how the method was fitted to the two networks, such as
            ``"tap 2: 1x1 adapter from 32 to 64 channels"``.
        deploy: from the student to the model that is judged and exported; None: the student
            itself.
        projected: ``projected(student, training=...)`` maps the student's features to the input of
            the deployed model's classifier. A training step calls it once; `logits` and, if
            `Method.extras` names ``projected``, the loss use the result. None: no projection.
        logits: ``logits(projected)`` gives the deployed model's logits, for the main loss and the
            logs; None: the student's own.
    """

    def __init__(
        self,
        method: Method,
        stages: Sequence[Stage],
        *,
        layers: Sequence[keras.layers.Layer] = (),
        notes: Sequence[str] = (),
        deploy: Callable[[keras.Model], keras.Model] | None = None,
        projected: Callable[..., tf.Tensor] | None = None,
        logits: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ):
        self.method = method
        self.stages = tuple(stages)
        self.layers = tuple(layers)
        self.notes = tuple(notes)
        self.deploy = deploy
        self.projected = projected
        self.logits = logits
        self._check()

    def _check(self) -> None:
        """Raise ValueError for what would train nothing or not be saved, without a word."""
        name, total = self.method.name, sum(stage.share for stage in self.stages)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"{name}: the shares of its stages add up to {total:g}, not to 1")
        for layer in self.layers:
            if not layer.built:
                raise ValueError(f"{name}: layer {layer.name!r} is not built: call its build first")
        own = {id(layer) for layer in self.layers}
        for stage in self.stages:
            for layer in stage.layers:
                if id(layer) not in own:
                    raise ValueError(
                        f"{name}: stage {stage.name!r} trains layer {layer.name!r}, which is not "
                        "among the layers of the loss, so it would not be saved"
                    )

    def stage(self, name: str | None = None) -> Stage:
        """The stage `name`; None: the last one that has a loss.

        Raises:
            UserError: there is no such stage.
        """
        if name is None:
            return next((s for s in reversed(self.stages) if s.loss), self.stages[-1])
        for stage in self.stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.stages)
        raise UserError(f"{self.method.name} has no stage {name!r}; its stages: {known}")

    def compute(
        self, teacher: Any, student: Any, context: Context, stage: Stage
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of a stage, unweighted, and the method's metrics.

        Args:
            teacher, student: the features that the method reads (`Method.select`).

        Raises:
            UserError: the loss is no scalar.
        """
        if stage.loss is None:
            return tf.constant(0.0), {}
        found = stage.loss(*self.method.prepare(teacher, student), context)
        loss, metrics = found if isinstance(found, tuple) else (found, {})
        if loss.shape.rank != 0:
            raise UserError(
                f"{self.method.name} gives a loss of shape {loss.shape}; expected one number, the "
                "mean over the batch, or its sum with reduction = Reduction.SUM"
            )
        return loss, dict(metrics)

    def compute_loss(
        self, teacher_outputs: Any, student_outputs: Any, *, stage: str | None = None,
        **context: Any,
    ) -> tf.Tensor:
        """The loss, unweighted, a scalar.

        Args:
            teacher_outputs, student_outputs: what the method reads: one kind of features by
                itself, several as a dict.
            stage: the name of one of the `stages`; None: the last that has a loss.
            **context: fields of `Context`, and the method's `extras`.
        """
        context = self.method.context(**context)
        return self.compute(teacher_outputs, student_outputs, context, self.stage(stage))[0]
