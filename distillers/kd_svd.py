"""KD_SVD: SSKD_SVD as its authors simplified it for their later comparison of methods."""

from __future__ import annotations

from distillers.registration import register
from distillers.singular_vectors import BestCandidates
from plugins import option


@register("KD_SVD")
class KD_SVD(BestCandidates):  # noqa: N801 (the authors' name)
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
        adapter: see `SSKD_SVD`.
    """

    solver: str = option("svd", choices=("svd", "auto"))
