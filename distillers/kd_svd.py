"""KD_SVD: SSKD_SVD as its authors simplified it for their later comparison of methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distillers.loss import Combination, Reduction
from distillers.method import Method
from distillers.reading import Maps
from distillers.registration import register
from distillers.singular_vectors import (
    check_candidates,
    kd_svd_loss,
    singular_vector_maps,
    svd_taps,
)
from plugins import option


@register("KD_SVD")
class KD_SVD(Method):  # noqa: N801 (the authors' name)
    """Lee, Kim & Song, ECCV 2018, as in the first author's KD_methods_with_TF.

    What differs from `SSKD_SVD`: ``k`` vectors of the teacher are compared with ``k + 3``
    candidates of the student, and there is no factor ``sqrt(k) / 2``. As there, the
    gradient is clipped against the main task's. Departures: the gradient is the exact one (theirs
    has twice the size for tall taps and another direction for wide ones); signs are canonical, with
    the teacher's flipped to the student's, where theirs are the routine's own and flip the student;
    a sample that is not finite is dropped, where theirs drops single entries.

    Args:
        num_dfv: k, singular vectors of each of the teacher's taps; a tap with fewer reduces k for
            its pair and all deeper ones.
        candidates: how many leading student vectors are searched for each teacher vector's best
            match; None: ``num_dfv + 3``.
        solver: ``"svd"`` decomposes each map, as published; ``"auto"`` compresses it first, as
            `KD_EID` does.
        adapter: as of `SSKD_SVD`.
    """

    paper = "Lee et al., ECCV 2018, as in KD_methods_with_TF"
    reduction = Reduction.SUM
    combination = Combination.CLIP
    metrics = ("dropped_share",)

    num_dfv: int = option(1, minimum=1)
    candidates: int | None = option(None, minimum=1)
    solver: str = option("svd", choices=("svd", "auto"))
    adapter: str = option("auto", choices=("auto", "none"))

    def check(self) -> None:
        check_candidates(self)

    @property
    def reads(self) -> Maps:  # type: ignore[override]
        return svd_taps(self.adapter, num_dfv=self.num_dfv)

    def pictures(self, teacher: Any, student: Any) -> dict[str, tuple[list[Any], list[Any]]]:
        return singular_vector_maps(teacher, student)

    def loss(
        self, teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The sum over pairs of neighbouring taps of ``sum((DFV_student - DFV_teacher)^2)``, summed
        over the batch; and the share of dropped samples."""
        loss, dropped = kd_svd_loss(
            teacher, student,
            num_dfv=self.num_dfv, candidates=self.candidates, solver=self.solver,
        )
        return loss, {"dropped_share": dropped}
