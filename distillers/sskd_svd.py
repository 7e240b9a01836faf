"""SSKD_SVD: self-supervised knowledge distillation using singular value decomposition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distillers.loss import Combination, Reduction
from distillers.method import Method
from distillers.reading import Maps
from distillers.registration import register
from distillers.singular_vectors import singular_vector_maps, sum_over_pairs, svd_taps
from op_util.alignment import align_taps
from op_util.dfv import TapPair, compare_dfvs
from op_util.draws import uniform_draws
from op_util.matrices import as_matrix
from plugins import option
from registry import UserError

SIGNS_STREAM = 0x51C  # of the random numbers, different from that of another use
FIXED_SIGNS = {"symmetric": 0.0, "opposed": -1.0}  # of bottom taps' vectors, see `with_signs`


def sskd_svd_loss(pairs: Sequence[TapPair]) -> tuple[tf.Tensor, tf.Tensor]:
    """The loss of section 3.2: the sum over pairs of neighbouring taps of
    ``sqrt(k) * 1/2 * sum((DFV_student - DFV_teacher)^2)``, summed over the batch.

    Args:
        pairs: the squared distances of the DFVs, see `op_util.dfv.compare_dfvs`. A sample with a
            non-finite value at either tap of a pair does not count there, and the others count
            ``B / good``.

    Returns:
        The loss, and the share of dropped samples, a mean over pairs.
    """
    return sum_over_pairs(pairs, lambda k, distance: math.sqrt(k) * 1 / 2 * distance)


@register("SSKD_SVD")
class SSKD_SVD(Method):  # noqa: N801 (the paper's name)
    """Lee, Kim & Song, "Self-supervised knowledge distillation using singular value decomposition",
    ECCV 2018.

    Each tap is compressed to its leading right singular vectors; the student learns the teacher's
    distilled feature vectors (DFV), the radial basis function between vectors of neighbouring taps.

    Departures: the gradient of the singular vectors is exact; the published code's guard zeroes
    most or all of it (``gradient=published``). The loss is the mean over both relative signs of
    neighbouring taps' vectors; the published code keeps the signs of the SVD routine
    (``orientation=as_computed``). Where channels differ, a trained 1x1 convolution adapts the
    student's tap. A sample that is not finite is dropped.

    Args:
        num_dfv: k, singular vectors of each of the teacher's taps; a tap with fewer reduces k for
            its pair and all deeper ones.
        gradient: ``"exact"``, or ``"published"`` for what the original code computes instead.
        orientation: of the vectors, whose signs are arbitrary: ``"symmetric"``: the mean of the
            loss over both relative signs of top and bottom; ``"canonical"``: the signs that make
            mean responses positive; ``"opposed"``: these, with the bottom taps' turned round;
            ``"random"``: a relative sign drawn for each image and epoch; ``"as_computed"``: by the
            SVD routine, as published.
        solver: ``"auto"`` compresses each map before decomposing it; ``"svd"`` does not.
        adapter: where channels differ, ``"auto"`` brings the student's tap to the teacher's by a
            1x1 convolution, which is trained with the student; ``"none"`` refuses.
    """

    paper = "Lee et al., ECCV 2018, arXiv 1807.06819"
    reduction = Reduction.SUM
    combination = Combination.CLIP
    metrics = ("dropped_share",)

    num_dfv: int = option(1, minimum=1)
    gradient: str = option("exact", choices=("exact", "published"))
    orientation: str = option(
        "symmetric", choices=("symmetric", "canonical", "opposed", "random", "as_computed")
    )
    solver: str = option("auto", choices=("auto", "svd"))
    adapter: str = option("auto", choices=("auto", "none"))

    @property
    def reads(self) -> Maps:  # type: ignore[override]
        return svd_taps(self.adapter, num_dfv=self.num_dfv)

    def loss(
        self,
        teacher: Sequence[tf.Tensor],
        student: Sequence[tf.Tensor],
        *,
        epoch: Any = None,
        indices: Any = None,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        own = self.orientation == "as_computed"
        taps = align_taps(
            [as_matrix(tap) for tap in student],
            [as_matrix(tap) for tap in teacher],
            self.num_dfv,
            gradient=self.gradient,
            orientation="as_computed" if own else "canonical",
            solver=self.solver,
        )
        signs = self._signs(taps, epoch, indices)
        loss, dropped = sskd_svd_loss(compare_dfvs(taps, self.num_dfv, signs))
        return loss, {"dropped_share": dropped}

    def pictures(self, teacher: Any, student: Any) -> dict[str, tuple[list[Any], list[Any]]]:
        return singular_vector_maps(teacher, student)

    def _signs(self, taps: Sequence[Any], epoch: Any, indices: Any) -> list[tf.Tensor] | None:
        """For each pair the signs ``[B, k]`` of the bottom tap's vectors; 0: the mean of both."""
        pairs = len(taps) - 1
        if self.orientation in FIXED_SIGNS:
            return [tf.fill([1, self.num_dfv], FIXED_SIGNS[self.orientation])] * pairs
        if self.orientation != "random":
            return None
        if indices is None:
            raise UserError("SSKD_SVD(orientation=random) needs indices: the images' numbers")
        epoch = 0 if epoch is None else epoch
        draws = uniform_draws(0, SIGNS_STREAM, epoch, indices, pairs * self.num_dfv)
        return tf.split(tf.sign(draws - 0.5) + tf.cast(draws == 0.5, tf.float32), pairs, axis=1)
