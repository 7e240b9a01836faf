"""SSKD_SVD: self-supervised knowledge distillation using singular value decomposition."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from distillers.checks import one_of, positive, tap_pairs
from distillers.method import Method
from distillers.registration import register
from op_util.alignment import Aligned, align_taps, importance
from op_util.dfv import dfv_basis, dfv_distance, dfv_gram
from op_util.replicas import global_sum
from op_util.singular_vectors import GRADIENTS, ORIENTATIONS, SOLVERS


@register("SSKD_SVD")
@dataclasses.dataclass(eq=False)
class SSKD_SVD(Method):  # noqa: N801 (the paper's name)
    """Lee, Kim & Song, "Self-supervised knowledge distillation using singular value decomposition",
    ECCV 2018.

    Each tap is compressed to its leading right singular vectors; the student learns the teacher's
    distilled feature vectors (DFV), the radial basis function between vectors of neighbouring taps.

    Args:
        num_dfv: singular vectors of each of the teacher's taps; fewer where a tap has no more.
        gradient: ``"exact"``, or ``"published"`` for what the original code computes instead.
        orientation: ``"canonical"`` signs, or ``"as_computed"`` by the SVD routine, as published.
        solver: ``"auto"`` compresses each map before decomposing it; ``"svd"`` does not.
    """

    paper = "Lee et al., ECCV 2018, arXiv 1807.06819"
    reduction = "sum"
    combination = "clip"
    figures = ("dropped_share",)

    num_dfv: int = 1
    gradient: str = "exact"
    orientation: str = "canonical"
    solver: str = "auto"

    def __post_init__(self) -> None:
        positive("SSKD_SVD", num_dfv=self.num_dfv)
        one_of("SSKD_SVD", GRADIENTS, gradient=self.gradient)
        one_of("SSKD_SVD", ORIENTATIONS, orientation=self.orientation)
        one_of("SSKD_SVD", SOLVERS, solver=self.solver)

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        tap_pairs("SSKD_SVD", teacher_outputs, student_outputs, at_least=2)

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """The sum over batch and pairs of ``sqrt(k) / 2 * sum((DFV_student - DFV_teacher)^2)``.

        A sample with a non-finite value at either tap of a pair counts for nothing in that pair,
        and the others for ``B / good``.

        Args:
            teacher_outputs, student_outputs: taps ``[B, H, W, D]`` or ``[B, D]``, shallow to deep,
                of equal D at each place.
        """
        return self.compute(teacher_outputs, student_outputs, **context)[0]

    def compute(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        aligned = align_taps(
            [as_matrix(tap) for tap in student_outputs],
            [as_matrix(tap) for tap in teacher_outputs],
            self.num_dfv,
            gradient=self.gradient,
            orientation=self.orientation,
            solver=self.solver,
        )
        loss, dropped = 0.0, 0.0
        for count, pair, share in pair_losses(aligned, self.num_dfv):
            loss += count**0.5 * pair
            dropped += (1 - share) / (len(aligned) - 1)
        return loss, {"dropped_share": dropped}


def as_matrix(tap: tf.Tensor) -> tf.Tensor:
    """A tap ``[B, H, W, D]`` as ``[B, HW, D]``, or ``[B, D]`` as ``[B, 1, D]``."""
    rows = 1
    for size in tap.shape[1:-1]:
        rows *= size
    return tf.reshape(tap, [-1, rows, tap.shape[-1]])


def pair_losses(
    aligned: Sequence[Aligned], num_dfv: int
) -> Iterator[tuple[int, tf.Tensor, tf.Tensor]]:
    """For each two neighbouring taps the number k of vectors, and what `pair_loss` gives.

    k is `num_dfv` until a tap has fewer vectors, and stays so for the deeper pairs.
    """

    @functools.cache  # a tap is bottom of one pair and top of the next
    def gram(tap: int, count: int) -> tf.Tensor:
        return weighted_gram(aligned[tap], count)

    count = num_dfv
    for i, (top, bottom) in enumerate(itertools.pairwise(aligned)):
        count = min(count, top.values.shape[1], bottom.values.shape[1])
        yield count, *pair_loss(gram(i, count), gram(i + 1, count), top.good & bottom.good)


def weighted_gram(aligned: Aligned, count: int) -> tf.Tensor:
    """`dfv_gram` of a tap's first `count` vectors, student's and teacher's, each weighted by the
    teacher's ``sigma_i / ||sigma_1..count||``."""
    weight = tf.stop_gradient(importance(aligned.values[:, :count]))[:, None, :]
    student = dfv_basis(aligned.student[:, :, :count] * weight)
    return dfv_gram(student, tf.stop_gradient(dfv_basis(aligned.teacher[:, :, :count] * weight)))


def pair_loss(top: tf.Tensor, bottom: tf.Tensor, good: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """``1/2 sum((DFV_student - DFV_teacher)^2)`` of one pair of taps, times ``B / good``.

    Args:
        top, bottom: `weighted_gram` of the shallower and the deeper tap.
        good: ``[b]``, the samples that count. B and the number of the good are those of all
            replicas together.

    Returns:
        The scalar, and the share of good samples.
    """
    ones = tf.cast(good, tf.float32)
    share = tf.math.divide_no_nan(
        *global_sum([tf.reduce_sum(ones), tf.cast(tf.size(ones), tf.float32)])
    )
    distance = tf.where(good, dfv_distance(top, bottom), 0)
    scale = tf.cast(tf.math.divide_no_nan(0.5, share), distance.dtype)
    return scale * tf.reduce_sum(distance), share
