"""KD_SVD: SSKD_SVD as its authors simplified it for their later comparison of methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distillers.checks import one_of, positive, tap_pairs
from distillers.method import Method
from distillers.registration import register
from distillers.sskd_svd import as_matrix, pair_losses
from op_util.alignment import align_taps
from op_util.singular_vectors import SOLVERS
from registry import UserError


@register("KD_SVD")
@dataclasses.dataclass(eq=False)
class KD_SVD(Method):  # noqa: N801 (the authors' name)
    """Lee, Kim & Song, ECCV 2018, as in the first author's KD_methods_with_TF.

    What differs from `SSKD_SVD`: one vector of the teacher against four candidates of the student
    (their code: ``k`` against ``k + 3``), and no factor ``sqrt(k) / 2``. As there, the gradient is
    clipped against the main task's. Departures: the gradient is the exact one (theirs has twice the
    size for tall taps and another direction for wide ones); signs are canonical, with the teacher's
    flipped to the student's, where theirs are the routine's own and flip the student; a sample that
    is not finite is dropped, where theirs drops single entries.

    Args:
        num_dfv: k, singular vectors of each of the teacher's taps; fewer where a tap has no more.
        candidates: how many of the student's vectors each of them may be compared with.
        solver: ``"svd"`` decomposes each map as the name says, ``"auto"`` compresses it first.
    """

    paper = "Lee et al., ECCV 2018, as in KD_methods_with_TF"
    reduction = "sum"
    combination = "clip"
    figures = ("dropped_share",)

    num_dfv: int = 1
    candidates: int = 4
    solver: str = "svd"

    def __post_init__(self) -> None:
        check_counts("KD_SVD", self.num_dfv, self.candidates)
        one_of("KD_SVD", SOLVERS, solver=self.solver)

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        tap_pairs("KD_SVD", teacher_outputs, student_outputs, at_least=2)

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """See `dfv_difference`.

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
        loss, dropped = dfv_difference(
            teacher_outputs, student_outputs, self.num_dfv, self.candidates, self.solver
        )
        return loss, {"dropped_share": dropped}


def check_counts(method: str, num_dfv: int, candidates: int) -> None:
    """Raise UserError unless there are vectors, and as many candidates for them at least."""
    positive(method, num_dfv=num_dfv)
    if candidates < num_dfv:
        raise UserError(
            f"{method}: candidates must be num_dfv ({num_dfv}) at least, not {candidates}"
        )


def dfv_difference(
    teacher: Sequence[tf.Tensor],
    student: Sequence[tf.Tensor],
    num_dfv: int,
    candidates: int,
    solver: str,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum over batch and pairs of taps of ``sum((DFV_student - DFV_teacher)^2)``.

    Args:
        teacher, student: taps, shallow to deep.
        num_dfv, candidates, solver: see `op_util.alignment.align_taps`.

    Returns:
        The loss, and the share of samples that are not finite, a mean over pairs.
    """
    aligned = align_taps(
        [as_matrix(tap) for tap in student],
        [as_matrix(tap) for tap in teacher],
        num_dfv,
        candidates=candidates,
        gradient="exact",
        orientation="canonical",
        solver=solver,
    )
    loss, dropped = 0.0, 0.0
    for _, half, share in pair_losses(aligned, num_dfv):
        loss += 2 * half
        dropped += (1 - share) / (len(aligned) - 1)
    return loss, dropped
