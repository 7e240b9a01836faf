"""KD_EID: KD_SVD by eigendecomposition."""

from __future__ import annotations

from typing import ClassVar

from distillers.registration import register
from distillers.singular_vectors import BestCandidates


@register("KD_EID")
class KD_EID(BestCandidates):  # noqa: N801 (the authors' name)
    """Lee, Kim & Song, ECCV 2018, as in the first author's KD_methods_with_TF, mode EID.

    The loss of `KD_SVD`, whose singular vectors are found as eigenvectors of the Gram matrix of a
    map's smaller side, ``X^T X`` or ``X X^T``: the same to rounding, at a fraction of the cost.
    Departures, besides those of `KD_SVD`: only the leading eigenvectors are computed, and maps that
    are nearly square get their gradient too (in their code they have none).

    Args:
        num_dfv, candidates, adapter: see `KD_SVD`.
    """

    solver: ClassVar[str] = "auto"
