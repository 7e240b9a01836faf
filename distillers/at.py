"""AT: attention transfer, the student looks where the teacher looks."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from distillers.method import Method
from distillers.reading import Maps
from distillers.registration import register
from op_util.vectors import unit_vectors
from plugins import option


def attention(maps: tf.Tensor) -> tf.Tensor:
    """``F / ||F||_2`` of ``F = mean over channels of A^2`` (section 3.1).

    Args:
        maps: A, ``[B, H, W, D]``.

    Returns:
        ``[B, H W]``.
    """
    energy = tf.reduce_mean(tf.square(maps), axis=-1)
    return unit_vectors(tf.reshape(energy, [-1, maps.shape[1] * maps.shape[2]]))


def attention_loss(teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sum over taps of the mean of ``(Q_student - Q_teacher)^2``, Q the `attention` (equation
    2, squared).

    Args:
        teacher, student: maps ``[B, H, W, D]`` of one size in each pair; channels may differ.
    """
    pairs = zip(teacher, student, strict=True)
    return sum(tf.reduce_mean(tf.square(attention(s) - attention(t))) for t, s in pairs)


@register("AT")
class AT(Method):
    """Zagoruyko & Komodakis, "Paying more attention to attention", ICLR 2017: activation-based
    attention transfer, next to the main task.

    Args:
        weight: weight relative to the main loss. RepDistiller's 1000 is for networks with batch
            normalisation in 240 epochs; it makes others diverge, and harms in few epochs.
    """

    paper = "Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928"
    reads = Maps(sizes="smaller", vectors="skip")

    weight: float = option(100.0, above=0)

    def loss(self, teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]) -> tf.Tensor:
        return attention_loss(teacher, student)
