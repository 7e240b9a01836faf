"""Align the student's singular vectors with the teacher's (Lee, Kim, Song 2018, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from op_util.precision import at_least_float32, product
from op_util.singular_vectors import (
    TRUSTED_ERROR,
    Decomposition,
    columns,
    decompose,
    differentiable,
)


class Aligned(NamedTuple):
    """The aligned singular vectors of one tap: the student's reordered, the teacher's re-signed.

    Attributes:
        student: ``[B, D, k]``, for each of the teacher's vectors the most similar candidate;
            differentiable.
        teacher: ``[B, D, k]``, a vector is flipped if its cosine with the candidate was negative.
        values: ``[B, k]``, the teacher's singular values.
        good: ``[B]``, False if the tap of either network is not finite.
    """

    student: tf.Tensor
    teacher: tf.Tensor
    values: tf.Tensor
    good: tf.Tensor


def align(student: tf.Tensor, teacher: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Find the student candidate that is most similar to each teacher vector.

    Args:
        student: candidates ``[B, D, c]``, columns of unit length (or zero).
        teacher: ``[B, D, k]``, columns of unit length (or zero).

    Returns:
        ``index [B, k]`` int32, the candidate with the largest absolute cosine, and all cosines
        ``[B, k, c]``.
    """
    cosine = product(teacher, student, transpose_a=True)
    return tf.argmax(tf.abs(cosine), axis=2, output_type=tf.int32), cosine


def align_taps(
    student: list[tf.Tensor],
    teacher: list[tf.Tensor],
    num_dfv: int,
    *,
    candidates: int | None = None,
    gradient: str,
    orientation: str,
    solver: str,
) -> list[Aligned]:
    """Align the singular vectors of all taps of two networks. The vectors have unit length.

    The teacher's first ``num_dfv`` vectors are matched with the student's first ``candidates``, or
    fewer if a map has fewer.

    Args:
        student, teacher: matrices ``[B, N, D]`` of the taps, shallow to deep. At each tap both
            networks have the same D; N may differ.
        num_dfv: how many vectors to match at each tap.
        candidates: at least ``num_dfv``; None means ``num_dfv + 1``, as published.
        gradient, orientation, solver: see `op_util.singular_vectors`.
    """
    offered = [min(candidates or num_dfv + 1, *x.shape[1:]) for x in student]
    compared = [
        min(num_dfv, *x.shape[1:], *y.shape[1:]) for x, y in zip(student, teacher, strict=True)
    ]
    # Candidates beyond those may be rough where `_trusted` checks the ones that are chosen.
    may_be_rough = orientation == "canonical" and student[0].dtype != tf.float64
    teacher = [tf.cast(y, at_least_float32(x).dtype) for x, y in zip(student, teacher, strict=True)]
    found = decompose(
        [*student, *teacher],
        [*offered, *compared],
        exact=[*compared, *compared] if may_be_rough else None,
        orientation=orientation,
        solver=solver,
    )
    return [
        _aligned(maps, *both, gradient, orientation, solver)
        for maps, *both in zip(student, found[: len(student)], found[len(student) :], strict=True)
    ]


def _aligned(
    maps: tf.Tensor,
    student: Decomposition,
    teacher: Decomposition,
    gradient: str,
    orientation: str,
    solver: str,
) -> Aligned:
    """Align one tap.

    If float32 does not determine the vectors, they are recomputed in float64, unless they keep the
    routine's own signs, which could change.
    """
    trusted = _trusted(student, teacher) if orientation == "canonical" else None
    fields = differentiable(
        maps, [student, teacher], _pick, gradient=gradient, solver=solver, trusted=trusted
    )
    return Aligned(*fields)


def _pick(student: Decomposition, teacher: Decomposition) -> tuple[tf.Tensor, ...]:
    """The indices of the chosen student vectors, followed by the fields of `Aligned`."""
    index, cosine = align(student.right, teacher.right)
    cosine = tf.gather(cosine, index, batch_dims=2)
    sign = tf.where(cosine < 0, -tf.ones_like(cosine), tf.ones_like(cosine))[:, None, :]
    good = student.good & teacher.good
    return index, columns(student.right, index), teacher.right * sign, teacher.values, good


def _trusted(student: Decomposition, teacher: Decomposition) -> tf.Tensor:
    """Whether rounding has neither turned a vector in use nor changed the choice of candidates.

    If a vector turns by an angle, its cosine with another vector changes by at most that angle. And
    since the candidates are orthogonal, their squared cosines add up to at most 1.
    """
    error = student.error
    index, cosine = align(student.right, teacher.right)
    cosine = tf.abs(cosine)
    is_chosen = tf.one_hot(index, error.shape[1], on_value=True, off_value=False)  # [B, k, c]
    least = tf.reduce_max(tf.where(is_chosen, cosine - error[:, None, :], -1.0), axis=2)
    most = tf.reduce_max(tf.where(is_chosen, -1.0, cosine + error[:, None, :]), axis=2)
    most = tf.minimum(most, tf.sqrt(tf.nn.relu(1 - tf.nn.relu(least) ** 2)))
    chosen = tf.gather(error, index, batch_dims=1) <= TRUSTED_ERROR
    known = teacher.error <= TRUSTED_ERROR
    return tf.reduce_all(chosen & (least > most) & known)


def importance(values: tf.Tensor) -> tf.Tensor:
    """Each vector's share of its map's energy: ``sigma_i / ||sigma_1..k||``.

    Args:
        values: singular values ``[B, k]``, >= 0.

    Returns:
        ``[B, k]``; 1 when k = 1, 0 for an all-zero map.
    """
    relative = tf.math.divide_no_nan(values, values[:, :1])  # sigma squared could overflow
    return tf.math.divide_no_nan(relative, tf.norm(relative, axis=1, keepdims=True))
