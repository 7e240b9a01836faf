"""KD_EID: KD_SVD by eigendecomposition."""

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


@register("KD_EID")
class KD_EID(Method):  # noqa: N801 (the authors' name)
    """Lee, Kim & Song, ECCV 2018, as in the first author's KD_methods_with_TF, mode EID.

    The loss of `KD_SVD`, whose singular vectors are found as eigenvectors of the Gram matrix of a
    map's smaller side, ``X^T X`` or ``X X^T``: the same to rounding, at a fraction of the cost.
    Departures, besides those of `KD_SVD`: only the leading eigenvectors are computed, and maps that
    are nearly square get their gradient too (in their code they have none).

    Args:
        num_dfv, candidates, adapter: as of `KD_SVD`.
    """

    paper = "Lee et al., ECCV 2018, as in KD_methods_with_TF"
    reduction = Reduction.SUM
    combination = Combination.CLIP
    metrics = ("dropped_share",)

    num_dfv: int = option(1, minimum=1)
    candidates: int | None = option(None, minimum=1)
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
        loss, dropped = kd_svd_loss(
            teacher, student, num_dfv=self.num_dfv, candidates=self.candidates, solver="auto"
        )
        return loss, {"dropped_share": dropped}
