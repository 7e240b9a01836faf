"""VID: variational information distillation, the student's maps predict the teacher's."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from distillers.loss import Context, Loss
from distillers.method import Method
from distillers.reading import Maps
from distillers.registration import register
from plugins import option

SMALLEST_VARIANCE = 1e-5


def surprise(x: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
    """``-log q(x)`` of a Gaussian, without its constant ``log(2 pi) / 2``:
    ``(x - mean)^2 / (2 variance) + log(variance) / 2``.

    Args:
        x, mean: ``[..., D]``.
        variance: ``[D]``, above 0.

    Returns:
        ``[..., D]``.
    """
    return (tf.square(x - mean) / variance + tf.math.log(variance)) / 2


class Gaussian(keras.layers.Layer):
    """``q(t | s)``: a mean by three linear maps of the channels with ReLU between
    them, position by position, and a variance for each channel of the teacher that does not depend
    on s.

    Args:
        channels: of the teacher's tap.
        initial_variance: above `SMALLEST_VARIANCE`.
    """

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
        learned = self.initial_variance - SMALLEST_VARIANCE
        start = learned + math.log(-math.expm1(-learned))  # of which softplus is `learned`
        self.scale = self.add_weight(
            shape=(self.channels,), initializer=keras.initializers.Constant(start), name="scale"
        )

    def call(self, student: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean ``[B, ..., channels]`` and variance ``[channels]``."""
        for layer in self.regressor:
            student = layer(student)
        return student, tf.math.softplus(self.scale) + SMALLEST_VARIANCE


@register("VID")
class VID(Method):
    """Ahn, Hu, Damianou, Lawrence & Dai, "Variational information distillation for knowledge
    transfer", CVPR 2019, at all taps.

    Taps may differ in channels; the larger of two maps is averaged to the size of the smaller. The
    loss is the sum over taps of the mean over batch and features of `surprise`.

    Args:
        weight: weight relative to the main loss (RepDistiller's).
        initial_variance: of the teacher's features around the prediction, before training
            (RepDistiller's).
    """

    paper = "Ahn et al., CVPR 2019, arXiv 1904.05835"
    reads = Maps(sizes="smaller")

    weight: float = option(1.0, above=0)
    initial_variance: float = option(5.0, above=1e-5)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        self.check_features(teacher, student)
        gaussians = []
        for number, (theirs, ours) in enumerate(self.reads.pairs(teacher, student), start=1):
            gaussian = Gaussian(theirs.shape[-1], self.initial_variance, name=f"gaussian{number}")
            gaussian.build(ours.shape)
            gaussians.append(gaussian)

        def loss(teacher: Any, student: Any, context: Context) -> tf.Tensor:
            return sum(
                tf.reduce_mean(surprise(tf.cast(theirs, tf.float32), *gaussian(ours)))
                for gaussian, theirs, ours in zip(gaussians, teacher, student, strict=True)
            )

        return self.make_loss(teacher, student, loss, layers=gaussians)
