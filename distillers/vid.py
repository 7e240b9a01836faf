"""VID: variational information distillation, the student's maps predict the teacher's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.checks import positive, tap_pairs
from distillers.maps import at_one_size, size_notes
from distillers.method import Method
from distillers.registration import register
from op_util.precision import at_least_float32
from registry import UserError

_SMALLEST_VARIANCE = 1e-5


@register("VID")
@dataclasses.dataclass(eq=False)
class VID(Method):
    """Ahn, Hu, Damianou, Lawrence & Dai, "Variational information distillation for knowledge
    transfer", CVPR 2019, at all taps.

    Taps may differ in channels; the larger of two maps is averaged to the size of the smaller.

    Args:
        weight: of this loss, next to the main loss (RepDistiller's).
        initial_variance: of the teacher's features about what the student predicts, before training
            (RepDistiller's).
    """

    paper = "Ahn et al., CVPR 2019, arXiv 1904.05835"

    weight: float = 1.0
    initial_variance: float = 5.0

    def __post_init__(self) -> None:
        positive("VID", weight=self.weight)
        if not _SMALLEST_VARIANCE < self.initial_variance < math.inf:
            raise UserError(
                f"VID: initial_variance must be above {_SMALLEST_VARIANCE}, not "
                f"{self.initial_variance}"
            )
        self._gaussians: list[Gaussian] = []
        self._notes: list[str] = []

    @property
    def distillation_weight(self) -> float:
        return self.weight

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        return self._gaussians

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        tap_pairs(
            "VID", teacher_outputs, student_outputs,
            at_least=1, equal_channels=False, equal_ranks=True,
        )
        self._notes = size_notes(teacher_outputs, student_outputs)
        self._gaussians = []
        for number, (teacher, student) in enumerate(
            zip(teacher_outputs, student_outputs, strict=True), start=1
        ):
            gaussian = Gaussian(teacher.shape[-1], self.initial_variance, name=f"gaussian{number}")
            gaussian.build(student.shape)
            self._gaussians.append(gaussian)

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """The sum over taps of the mean over all features of ``-log q(teacher | student)``,
        without its constant ``log(2 pi) / 2``.

        Args:
            teacher_outputs, student_outputs: taps ``[B, H, W, D]`` or ``[B, D]``, shallow to deep.
        """
        loss = 0.0
        for gaussian, *pair in zip(self._gaussians, teacher_outputs, student_outputs, strict=True):
            if len(pair[0].shape) == 4:
                teacher, student = at_one_size(*pair)
            else:
                teacher, student = tf.stop_gradient(pair[0]), at_least_float32(pair[1])
            mean, variance = gaussian(student)
            loss += tf.reduce_mean(surprise(tf.cast(teacher, mean.dtype), mean, variance))
        return loss


class Gaussian(keras.layers.Layer):
    """``q(t | s)``: a mean by three linear maps of the channels with ReLU between them, position by
    position, and a variance for each channel of the teacher that does not depend on s."""

    def __init__(self, channels: int, initial_variance: float, name: str):
        super().__init__(name=name, dtype="float32")
        self.channels = channels
        self.initial_variance = initial_variance
        self.regressor = [
            keras.layers.Dense(
                channels, activation, use_bias=False, kernel_initializer="he_normal",
                dtype="float32",
            )
            for activation in ("relu", "relu", None)
        ]

    def build(self, shape: Any) -> None:
        for layer in self.regressor:
            layer.build(shape)
            shape = (*shape[:-1], self.channels)
        start = math.log(math.expm1(self.initial_variance - _SMALLEST_VARIANCE))
        self.scale = self.add_weight(
            shape=(self.channels,), initializer=keras.initializers.Constant(start), name="scale"
        )

    def call(self, student: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean ``[B, ..., channels]`` and variance ``[channels]``."""
        for layer in self.regressor:
            student = layer(student)
        return student, tf.math.softplus(self.scale) + _SMALLEST_VARIANCE


def surprise(x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    """``(x - mean)^2 / (2 variance) + log(variance) / 2``, shaped as x ``[..., D]``."""
    return (tf.square(x - mean) / variance + tf.math.log(variance)) / 2
