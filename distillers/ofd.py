"""OFD, also known as CO: a comprehensive overhaul of feature distillation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import norm

from distillers.adapters import linear
from distillers.checks import described, positive, tap_pairs
from distillers.method import Method
from distillers.registration import register
from nets.layers import batch_normalization
from op_util.pooling import adaptive_average_pool
from op_util.precision import at_least_float32
from op_util.replicas import global_sum

RARE = 1e-3  # share of negative responses below which their mean says nothing


@register("OFD")
@dataclasses.dataclass(eq=False)
class OFD(Method):
    """Heo et al., "A comprehensive overhaul of feature distillation", ICCV 2019.

    The student's maps, each through a connector of 1x1 convolution and batch normalisation, are
    drawn to the teacher's, of which negative responses are cut off at a margin: the mean of a
    channel's negative responses. Also registered as ``CO``.

    The paper taps what goes into a ReLU, and computes the margins from the teacher's batch
    normalisation there. So do we where a tap is the output of a batch normalisation. Of any other
    tap the margins are the means over the negative responses of the batch. What comes out of a ReLU
    has none: margin 0, and where the teacher is silent the student has but to be at most 0.

    Args:
        weight: of this loss, next to the main loss (the paper's code for CIFAR-100, mdistiller).
    """

    paper = "Heo et al., ICCV 2019, arXiv 1904.01866"

    weight: float = 1e-3

    def __post_init__(self) -> None:
        positive("OFD", weight=self.weight)
        self._connectors: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []
        self._margins: list[np.ndarray | None] = []
        self._notes: list[str] = []

    @property
    def distillation_weight(self) -> float:
        return self.weight

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        return [layer for connector in self._connectors for layer in connector]

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        tap_pairs(
            "OFD", teacher_outputs, student_outputs, at_least=1, equal_channels=False,
            equal_ranks=True,
        )
        taps = list(zip(teacher_outputs, student_outputs, strict=True))
        self._connectors = [
            _connector(student, teacher.shape[-1], f"connector{number}")
            for number, (teacher, student) in enumerate(taps, start=1)
        ]
        self._margins = [_normalization_margin(teacher) for teacher, _ in taps]
        self._notes = []
        for number, (teacher, student) in enumerate(taps, start=1):
            sizes = ["x".join(map(str, tap.shape[1:-1])) for tap in (teacher, student)]
            if sizes[0] != sizes[1]:
                self._notes.append(
                    f"tap {number} of the teacher ({described(teacher)}): averaged from {sizes[0]} "
                    f"to {sizes[1]}"
                )

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """``sum over taps of partial_l2 / 2^(taps - i)`` for tap i = 1 to the number of taps.

        Args:
            teacher_outputs, student_outputs: taps ``[B, H, W, D]`` or ``[B, D]``, shallow to deep;
                channels and sizes may differ.
        """
        training = context.get("stage") is not None
        total = 0.0
        parts = zip(
            teacher_outputs, student_outputs, self._connectors, self._margins, strict=True
        )
        for i, (teacher, student, (convolution, normalization), margin) in enumerate(parts, 1):
            student = normalization(convolution(at_least_float32(student)), training=training)
            teacher = tf.cast(tf.stop_gradient(teacher), student.dtype)
            if len(teacher.shape) == 4:
                teacher = adaptive_average_pool(teacher, student.shape[1:3])
            if margin is None:
                margin = batch_margin(teacher)
            loss = partial_l2(student, tf.maximum(teacher, tf.cast(margin, teacher.dtype)))
            total += loss / 2.0 ** (len(self._connectors) - i)
        return total


register("CO")(OFD)


def partial_l2(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """``(student - teacher)^2`` summed over a sample's entries, but where the teacher is at most 0
    and the student below it; mean over the batch (Heo et al., section 3.4).

    Args:
        student: ``[B, ...]``.
        teacher: ``[B, ...]``, after the margin ReLU.
    """
    counts = (student > teacher) | (teacher > 0)
    squares = tf.where(counts, tf.square(student - teacher), 0)
    return tf.reduce_mean(tf.reduce_sum(squares, axis=list(range(1, len(squares.shape)))))


def batch_margin(teacher: tf.Tensor) -> tf.Tensor:
    """The mean of each channel's negative responses ``[D]`` in the global batch; 0 if none.

    Args:
        teacher: ``[B, H, W, D]`` or ``[B, D]``.
    """
    axes = list(range(len(teacher.shape) - 1))
    total = tf.reduce_sum(tf.minimum(teacher, 0), axis=axes)
    count = tf.reduce_sum(tf.cast(teacher < 0, teacher.dtype), axis=axes)
    return tf.math.divide_no_nan(*global_sum([total, count]))


def normalized_margin(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The mean of a normal variable where it is negative (Heo et al., eq. 3).

    Where it hardly ever is, as in the paper's code: three deviations below 0.

    Args:
        mean, deviation: ``[D]``, of the channels; the deviation >= 0.
    """
    margin = np.minimum(mean, 0.0)  # of a channel that does not vary
    varies = deviation > 0
    margin[varies] = -3 * deviation[varies]
    ratio = np.divide(mean, deviation, out=np.zeros_like(mean), where=varies)
    share = norm.cdf(-ratio)
    usual = varies & (share > RARE)
    density = np.exp(-ratio[usual] ** 2 / 2) / math.sqrt(2 * math.pi)
    margin[usual] = mean[usual] - deviation[usual] * density / share[usual]
    return margin


def _normalization_margin(tap: Any) -> np.ndarray | None:
    """`normalized_margin` of a tap that is the output of a batch normalisation, else None."""
    history = getattr(tap, "_keras_history", None)
    layer = history.operation if history else None
    if not isinstance(layer, keras.layers.BatchNormalization):
        return None
    channels = tap.shape[-1]
    gamma = np.ones(channels) if layer.gamma is None else layer.gamma.numpy()
    beta = np.zeros(channels) if layer.beta is None else layer.beta.numpy()
    return normalized_margin(beta.astype("float64"), np.abs(gamma.astype("float64")))


def _connector(
    student: Any, channels: int, name: str
) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """1x1 convolution and batch normalisation from a tap's channels to `channels`, built."""
    normalization = batch_normalization(f"{name}_bn", dtype="float32")
    normalization.build((*student.shape[:-1], channels))
    return linear(student, channels, name, use_bias=False), normalization
