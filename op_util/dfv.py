"""Distilled feature vectors (DFV): how two neighbouring feature maps relate to each other.

Lee, Kim, Song (ECCV 2018), section 3.2: a radial basis function correlates the singular vectors of
a shallower (top) and a deeper (bottom) map, ``DFV[m, n] = exp(-(top[m] - bottom[n])^2 / 8)``, and
the student's DFV is matched to the teacher's. `dfv` is this formula; `dfv_distance` computes the
squared distance between two DFVs without holding either in memory.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from op_util.alignment import Aligned, importance

WIDTH = 8.0  # the 8 of the radial basis function


def dfv(top: tf.Tensor, bottom: tf.Tensor) -> tf.Tensor:
    """``exp(-(top[m, i] - bottom[n, i])^2 / 8)``.

    Args:
        top: ``[B, D_top, k]``.
        bottom: ``[B, D_bottom, k]``.

    Returns:
        ``[B, D_top, D_bottom, k]``.
    """
    return tf.exp(-tf.square(top[:, :, None] - bottom[:, None]) / WIDTH)


def dfv_basis(vectors: tf.Tensor) -> tf.Tensor:
    """The factors phi of a DFV: ``DFV[m, n] = sum_j phi_j(top[m]) phi_j(bottom[n])``.

    As ``exp(-(a - b)^2 / 8) = exp(-a^2 / 8) exp(-b^2 / 8) exp(a b / 4)``, the factors are
    ``phi_j(a) = exp(-a^2 / 8) (a / 2)^j / sqrt(j!)``. For ``|a|, |b| <= 1``, as in weighted unit
    vectors, the terms are below ``4^-j / j!``, so a few of them suffice to rounding precision.

    Args:
        vectors: one map's vectors, ``[B, D, k]``, entries of absolute value at most 1.

    Returns:
        ``[B, k, J, D]`` with ``phi_0 - 1`` in place of ``phi_0``: the entries of vectors are small,
        so ``phi_0`` is close to 1 and the difference preserves its digits.
    """
    return _reduced_basis(tf.linalg.matrix_transpose(vectors))


@tf.custom_gradient
def _reduced_basis(a: tf.Tensor):
    """``phi_0 - 1, phi_1, ...`` of ``a [B, k, D]``, stacked: ``[B, k, J, D]``.

    The derivative needs only the factors: ``phi_j' = (sqrt(j) phi_{j-1} - sqrt(j+1) phi_{j+1}) /
    2``.
    """
    size = basis_size(a.dtype)
    first = tf.math.expm1(-tf.square(a) / WIDTH)
    factors = [first + 1]
    for j in range(1, size + 1):
        factors.append(factors[-1] * (a * (0.5 / math.sqrt(j))))

    def grad(upstream: tf.Tensor) -> tf.Tensor:
        parts = tf.unstack(upstream, axis=2)
        # The sum over j of upstream_j phi_j'.
        total = -0.5 * parts[0] * factors[1]
        for j in range(1, size):
            slope = math.sqrt(j) * factors[j - 1] - math.sqrt(j + 1) * factors[j + 1]
            total += 0.5 * parts[j] * slope
        return total

    return tf.stack([first, *factors[1:size]], axis=2), grad


def basis_size(dtype: tf.DType) -> int:
    """How many factors are needed for a remainder below half the rounding unit of `dtype`."""
    half_unit = 2.0**-25 if dtype == tf.float32 else 2.0**-54
    return next(j for j in range(64) if 4.0**-j / math.factorial(j) < half_unit)


def dfv_gram(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """All that the distance between DFVs needs from one map: inner products over its channels.

    Args:
        student, teacher: `dfv_basis` of the map's vectors, ``[B, k, J, D]``.

    Returns:
        Gram matrix ``[B, k, 2 J, 2 J]`` of ``phi_student - phi_teacher`` and ``phi_teacher``.
    """
    one = tf.one_hot(0, student.shape[2], dtype=student.dtype)[:, None]  # phi_0 - 1 becomes phi_0
    factors = tf.concat([student - teacher, teacher + one], axis=2)
    return tf.matmul(factors, factors, transpose_b=True)


def dfv_distance(top: tf.Tensor, bottom: tf.Tensor) -> tf.Tensor:
    """``sum over m, n, i of (DFV_student - DFV_teacher)^2`` from the `dfv_gram` of both maps.

    Because ``phi_s psi_s - phi_t psi_t = (phi_s - phi_t) psi_s + phi_t (psi_s - psi_t)``, the
    difference of the DFVs is a product ``P Q^T`` of two thin matrices, and ``||P Q^T||^2 = <P^T P,
    Q^T Q>``. Using differences avoids cancellation, and no ``[D_top, D_bottom]`` tensor is needed.

    Args:
        top, bottom: ``[B, k, 2 J, 2 J]``, of the shallower and the deeper map.

    Returns:
        ``[B]``.
    """
    size = top.shape[-1] // 2
    eye = tf.eye(size, dtype=top.dtype)
    # P consists of (difference, teacher), Q of (student, difference).
    exchange = tf.concat(
        [tf.concat([eye, eye], axis=1), tf.concat([eye, tf.zeros_like(eye)], axis=1)], axis=0
    )
    bottom = tf.einsum("pi,bkij,qj->bkpq", exchange, bottom, exchange)
    return tf.reduce_sum(top * bottom, axis=[1, 2, 3])


def with_signs(gram: tf.Tensor, signs: tf.Tensor) -> tf.Tensor:
    """The `dfv_gram` of a map after multiplying both networks' vectors by `signs`.

    Since ``phi_j(-b) = (-1)^j phi_j(b)``, a flip negates the entries where j and j' have different
    parity.

    Args:
        gram: ``[B, k, 2 J, 2 J]``.
        signs: ``[B, k]``, 1 or -1; 0 gives the mean over both signs.
    """
    order = tf.range(gram.shape[-1]) % (gram.shape[-1] // 2)
    is_odd = tf.cast((order[:, None] + order[None, :]) % 2, gram.dtype)
    signs = tf.cast(signs, gram.dtype)[:, :, None, None]
    return gram * (1 - is_odd + is_odd * signs)


class TapPair(NamedTuple):
    """What a distillation loss needs from two neighbouring taps.

    Attributes:
        count: k, how many vectors of each tap are compared.
        squares: ``[B]``, ``sum over m, n, i of (DFV_student - DFV_teacher)^2`` for each sample.
        good: ``[B]``, False if either tap of either network is not finite.
    """

    count: int
    squares: tf.Tensor
    good: tf.Tensor


def compare_dfvs(
    taps: Sequence[Aligned], num_dfv: int, signs: Sequence[tf.Tensor] | None = None
) -> list[TapPair]:
    """Compare the DFVs of student and teacher for each pair of neighbouring taps.

    The vectors are weighted by the teacher's ``sigma_i / ||sigma_1..k||`` (section 3.1).

    Args:
        taps: shallow to deep, from `op_util.alignment.align_taps`.
        num_dfv: k. If a tap has fewer vectors, k is reduced for it and for all deeper pairs.
        signs: for each pair ``[B, num_dfv]``: both networks' vectors of the bottom tap are
            multiplied by these (see `with_signs`). None leaves them unchanged.
    """

    @functools.cache  # a tap is the bottom of one pair and the top of the next
    def gram(tap: int, count: int) -> tf.Tensor:
        return _weighted_gram(taps[tap], count)

    pairs, count = [], num_dfv
    for i, (top, bottom) in enumerate(itertools.pairwise(taps)):
        count = min(count, top.values.shape[1], bottom.values.shape[1])
        deeper = gram(i + 1, count)
        if signs is not None:
            deeper = with_signs(deeper, signs[i][:, :count])
        squares = dfv_distance(gram(i, count), deeper)
        pairs.append(TapPair(count, squares, top.good & bottom.good))
    return pairs


def _weighted_gram(tap: Aligned, count: int) -> tf.Tensor:
    """`dfv_gram` of a tap's first `count` vectors, weighted by the teacher's importance."""
    weight = tf.stop_gradient(importance(tap.values[:, :count]))[:, None, :]
    student = dfv_basis(tap.student[:, :, :count] * weight)
    teacher = tf.stop_gradient(dfv_basis(tap.teacher[:, :, :count] * weight))
    return dfv_gram(student, teacher)
