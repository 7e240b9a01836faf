"""OFD, also known as CO: a comprehensive overhaul of feature distillation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import norm

from distillers.adapters import linear
from distillers.checks import describe
from distillers.loss import Combination, Loss
from distillers.method import Method, with_context
from distillers.reading import Maps, size_text
from distillers.registration import register
from nets.keras_graph import innermost, producer
from nets.layers import batch_normalization
from op_util.pooling import adaptive_average_pool
from plugins import option
from replicas import global_sum

RARE = 1e-3  # share of negative responses below which their mean says nothing


def partial_l2(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """``sum (T - S)^2`` over an image's entries, except where ``S <= T <= 0``; mean over the batch
    (section 3.4).

    Args:
        student: S, ``[B, ...]``.
        teacher: T, ``[B, ...]``, after the margin ReLU.
    """
    counts = (student > teacher) | (teacher > 0)
    squares = tf.where(counts, tf.square(student - teacher), 0)
    return tf.reduce_mean(tf.reduce_sum(squares, axis=list(range(1, len(squares.shape)))))


def overhaul_loss(
    teacher: Sequence[tf.Tensor],
    student: Sequence[tf.Tensor],
    margins: Sequence[np.ndarray | None],
) -> tf.Tensor:
    """The sum over taps of ``2^-d partial_l2(S, max(T, margin))``, d the number of deeper taps.

    Args:
        teacher, student: taps ``[B, ...]``, shallow to deep, of one shape in each pair.
        margins: of each tap ``[D]``; None: the `batch_margin`.
    """
    loss, last = 0.0, len(margins) - 1
    for i, (theirs, ours, margin) in enumerate(zip(teacher, student, margins, strict=True)):
        margin = batch_margin(theirs) if margin is None else tf.cast(margin, theirs.dtype)
        loss += partial_l2(ours, tf.maximum(theirs, margin)) / 2.0 ** (last - i)
    return loss


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

    Where it hardly ever is negative: three deviations below 0, as in the paper's code.

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


@register("OFD")
class OFD(Method):
    """Heo et al., "A comprehensive overhaul of feature distillation", ICCV 2019.

    The student's taps, each through a connector of 1x1 convolution and batch normalisation, are
    matched to the teacher's, whose negative responses are cut off at a margin: the mean of a
    channel's negative responses. Where sizes differ, the teacher's map is averaged to the
    student's. Also registered as ``CO``.

    The paper taps what goes into a ReLU, and computes the margins from the teacher's batch
    normalisation there. So do we where a tap is the output of a batch normalisation. Of any other
    tap the margins are the means over the negative responses of the batch. The output of a ReLU has
    none: there the margin is 0, and where the teacher is silent the student may be anything up to
    0.

    Departure: the gradient is clipped (see `Combination.CLIP`); the authors add the losses.

    Args:
        weight: weight relative to the main loss. None: 1e-3 (the paper's code for CIFAR-100,
            mdistiller), or 1e-4 for a student without normalisation layers, which learns less at
            1e-3 than alone.
        clip: the largest norm of this loss's gradient, as a multiple of the main task's; 1e9 adds
            the losses unclipped, as the authors do.
    """

    paper = "Heo et al., ICCV 2019, arXiv 1904.01866"
    reads = Maps(sizes="adapted")
    combination = Combination.CLIP
    usual_weight = 1e-3
    weight_without_normalization = 1e-4

    weight: float | None = option(None, above=0)
    clip: float = option(1.0, above=0)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        self.check_features(teacher, student)
        taps = self.reads.pairs(teacher, student)
        margins = [_normalization_margin(theirs) for theirs, _ in taps]
        connectors = [
            _connector(ours, theirs.shape[-1], f"connector{number}")
            for number, (theirs, ours) in enumerate(taps, start=1)
        ]

        def loss(teacher: Any, student: Any, *, training: bool) -> tf.Tensor:
            connected = [
                tf.cast(normalization(convolution(tap), training=training), tap.dtype)
                for (convolution, normalization), tap in zip(connectors, student, strict=True)
            ]
            sized = [_sized(*pair) for pair in zip(teacher, connected, strict=True)]
            return overhaul_loss(sized, connected, margins)

        return self.make_loss(
            teacher, student, with_context(loss, self.name),
            layers=[layer for connector in connectors for layer in connector],
            notes=_size_notes(taps),
        )


register("CO")(OFD)


def _size_notes(taps: Sequence[tuple[Any, Any]]) -> list[str]:
    """A line for each tap at which the teacher's map is averaged."""
    return [
        f"tap {number} of the teacher ({describe(theirs)}): averaged from "
        f"{size_text(theirs.shape[1:-1])} to {size_text(ours.shape[1:-1])}"
        for number, (theirs, ours) in enumerate(taps, start=1)
        if theirs.shape[1:-1] != ours.shape[1:-1]
    ]


def _sized(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """The teacher's map ``[B, H, W, D]`` averaged to the student's size; other taps as they are."""
    if len(teacher.shape) != 4:
        return teacher
    return adaptive_average_pool(teacher, tuple(student.shape[1:3]))


def _normalization_margin(tap: Any) -> np.ndarray | None:
    """`normalized_margin` of a tap that is the output of a batch normalisation, else None."""
    layer = producer(innermost(tap))
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
