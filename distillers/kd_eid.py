"""KD_EID: KD_SVD by eigendecomposition."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distillers.checks import tap_pairs
from distillers.kd_svd import check_counts, dfv_difference
from distillers.method import Method
from distillers.registration import register


@register("KD_EID")
@dataclasses.dataclass(eq=False)
class KD_EID(Method):  # noqa: N801 (the authors' name)
    """Lee, Kim & Song, ECCV 2018, as in the first author's KD_methods_with_TF, mode EID.

    The loss of `KD_SVD`, whose singular vectors are found as eigenvectors of the Gram matrix of a
    map's smaller side, ``X^T X`` or ``X X^T``: the same to rounding, at a fraction of the cost.
    Departures, besides those of `KD_SVD`: only the leading eigenvectors are computed, and maps that
    are nearly square get their gradient too (in their code they have none).

    Args:
        num_dfv, candidates: as of `KD_SVD`.
    """

    paper = "Lee et al., ECCV 2018, as in KD_methods_with_TF"
    reduction = "sum"
    combination = "clip"
    figures = ("dropped_share",)

    num_dfv: int = 1
    candidates: int = 4

    def __post_init__(self) -> None:
        check_counts("KD_EID", self.num_dfv, self.candidates)

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        tap_pairs("KD_EID", teacher_outputs, student_outputs, at_least=2)

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """See `distillers.kd_svd.dfv_difference`. Arguments as of `KD_SVD`."""
        return self.compute(teacher_outputs, student_outputs, **context)[0]

    def compute(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        loss, dropped = dfv_difference(
            teacher_outputs, student_outputs, self.num_dfv, self.candidates, solver="auto"
        )
        return loss, {"dropped_share": dropped}
