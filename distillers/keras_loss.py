"""Use Keras' distillation losses, and subclasses of them, as methods."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from distillers.loss import Loss
from distillers.method import Method
from distillers.reading import Outputs
from nets import output_layer_of


class _OneTap(Outputs):
    """The only tap of each network, in its own type."""

    key = "maps"

    def prepare(self, teacher: Any, student: Any, *, learns: bool = False) -> tuple[Any, Any]:
        (teacher,), (student,) = teacher, student
        return super().prepare(teacher, student, learns=learns)


class KerasLoss(Method):
    """Any `keras.distillation.DistillationLoss`, for example ``LogitsDistillation``.

    It gets the same inputs as in Keras' own Distiller: the outputs of the two layers that it names
    (``teacher_layer_name``, ``student_layer_name``), or else all outputs of the models. Here
    teacher and student may have different dtypes.

    Args:
        wrapped: the loss, a mean over the batch.
        weight: weight of this loss, relative to the main loss.
        couples_samples: whether an image's loss depends on other images of the batch.
    """

    paper = "keras.distillation"

    wrapped: keras.distillation.DistillationLoss
    weight: float = 1.0
    couples_samples: bool = dataclasses.field(default=False, kw_only=True)  # type: ignore[misc]

    @property
    def reads(self) -> Outputs:  # type: ignore[override]
        return _OneTap() if any(self._layers()) else Outputs()

    def _layers(self) -> tuple[str | None, str | None]:
        names = (getattr(self.wrapped, f"{one}_layer_name", None) for one in ("teacher", "student"))
        return tuple(names)

    def taps(self, teacher: keras.Model, student: keras.Model) -> tuple[Any, Any]:
        if not any(self._layers()):
            return None, None
        # If only one of the layers is named, the other is the output layer.
        return tuple(
            (name or output_layer_of(model.outputs[0]),)
            for name, model in zip(self._layers(), (teacher, student), strict=True)
        )

    def validate_model_compatibility(self, teacher: keras.Model, student: keras.Model) -> None:
        self.wrapped.validate_model_compatibility(teacher, student)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        return self.make_loss(teacher, student)

    def loss(self, teacher: Any, student: Any) -> tf.Tensor:
        """The wrapped loss of the tap or of the outputs."""
        self.wrapped.validate_outputs(teacher, student)
        return tf.convert_to_tensor(self.wrapped.compute_loss(teacher, student))

    def settings(self) -> dict[str, Any]:
        return {"loss": type(self.wrapped).__name__, "weight": self.weight}
