"""NST: neuron selectivity transfer, channels that look at the places the teacher's look at."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from distillers.loss import Combination
from distillers.method import Method
from distillers.reading import Maps
from distillers.registration import register
from op_util.vectors import unit_vectors
from plugins import option


def channels(maps: tf.Tensor) -> tf.Tensor:
    """Each channel of maps ``[B, H, W, D]`` as a vector over positions, of length 1:
    ``[B, D, H W]``."""
    rows = tf.reshape(maps, [-1, maps.shape[1] * maps.shape[2], maps.shape[3]])
    return unit_vectors(tf.linalg.matrix_transpose(rows))


def discrepancy(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """The squared maximum mean discrepancy, ``mean k(t, t') + mean k(s, s') - 2 mean k(s, t)`` over
    pairs of channels with ``k(a, b) = (a^T b)^2``, ``[B]``.

    Since ``k(a, b) = <a a^T, b b^T>``, that is ``||S^T S / D_S - T^T T / D_T||^2`` too, which costs
    less where there are fewer positions than channels.

    Args:
        teacher, student: T ``[B, D_T, N]`` and S ``[B, D_S, N]``, their rows of length 1.
    """
    if student.shape[2] <= max(student.shape[1], teacher.shape[1]):
        ours, theirs = (
            tf.matmul(x, x, transpose_a=True) / x.shape[1] for x in (student, teacher)
        )
        return tf.reduce_sum(tf.square(ours - theirs), axis=[1, 2])

    def mean_kernel(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        products = tf.matmul(one, other, transpose_b=True)
        return tf.reduce_mean(tf.square(products), axis=[1, 2])

    within = mean_kernel(teacher, teacher) + mean_kernel(student, student)
    return within - 2 * mean_kernel(student, teacher)


@register("NST")
class NST(Method):
    """Huang & Wang, "Like what you like: knowledge distill via neuron selectivity transfer", 2017,
    with the polynomial kernel (d = 2, c = 0): the sum over taps of the `discrepancy`, mean over the
    batch.

    Taps may differ in channels; the larger of two maps is averaged to the size of the smaller. Taps
    that are vectors are left out. Departure: the gradient is clipped (see
    `Combination.CLIP`); the authors add the losses.

    Args:
        weight: weight relative to the main loss (RepDistiller's).
        clip: the largest norm of this loss's gradient, as a multiple of the main task's; 1e9 adds
            the losses unclipped, as the authors do.
    """

    paper = "Huang & Wang 2017, arXiv 1707.01219"
    reads = Maps(sizes="smaller", vectors="skip")
    combination = Combination.CLIP

    weight: float = option(50.0, above=0)
    clip: float = option(1.0, above=0)

    def loss(self, teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]) -> tf.Tensor:
        pairs = zip(teacher, student, strict=True)
        return sum(tf.reduce_mean(discrepancy(channels(t), channels(s))) for t, s in pairs)
