"""Keras' own distillation losses, and a person's subclasses of them, as methods."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distillers.method import Method


class KerasLoss(Method):
    """Any `keras.distillation.DistillationLoss`, such as ``LogitsDistillation``.

    It gets what Keras' own Distiller would give it: what the two layers that it names give
    (``teacher_layer_name``, ``student_layer_name``), or the models' outputs, all of them where a
    model has several. Here teacher and student may be of different dtypes.

    Args:
        loss: the loss, a mean over the batch.
        weight: of this loss, next to the main loss.
        couples_samples: whether an image's loss depends on others of the batch.
    """

    paper = "keras.distillation"

    def __init__(
        self,
        loss: keras.distillation.DistillationLoss,
        weight: float = 1.0,
        couples_samples: bool = False,
    ):
        self.loss = loss
        self.weight = weight
        self.couples_samples = couples_samples
        taps = [getattr(loss, f"{whose}_layer_name", None) for whose in ("teacher", "student")]
        # A layer that is not named is the last one, and so it is with the taps.
        self.reads = "maps" if any(taps) else "outputs"
        self.teacher_taps, self.student_taps = ((name,) if name else None for name in taps)

    @property
    def distillation_weight(self) -> float:
        return self.weight

    def validate_model_compatibility(self, teacher: keras.Model, student: keras.Model) -> None:
        self.loss.validate_model_compatibility(teacher, student)
        for name, model in (("teacher_taps", teacher), ("student_taps", student)):
            if self.reads == "maps" and getattr(self, name) is None:
                setattr(self, name, (model.outputs[0]._keras_history.operation.name,))

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **context: Any) -> tf.Tensor:
        """What the loss says of the one tap or of the outputs."""
        if self.reads == "maps":
            (teacher_outputs,), (student_outputs,) = teacher_outputs, student_outputs
        teacher_outputs = keras.tree.map_structure(
            lambda theirs, ours: tf.cast(theirs, ours.dtype), teacher_outputs, student_outputs
        )
        self.loss.validate_outputs(teacher_outputs, student_outputs)
        return tf.convert_to_tensor(self.loss.compute_loss(teacher_outputs, student_outputs))

    def settings(self) -> dict[str, Any]:
        return {"loss": type(self.loss).__name__, "weight": self.weight}
