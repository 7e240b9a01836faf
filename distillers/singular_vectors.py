"""What the methods that compare singular vectors share: `SSKD_SVD`, `KD_SVD`, `KD_EID`, `MHGD`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from distillers.adapters import channels_read
from distillers.loss import Combination, Reduction
from distillers.method import Method
from distillers.reading import Maps, as_taps
from distillers.samples import sum_over_good
from op_util.alignment import align_taps
from op_util.dfv import TapPair, compare_dfvs
from op_util.matrices import as_matrix
from op_util.precision import at_least_float32
from op_util.singular_vectors import decompose
from plugins import option
from registry import UserError

CANDIDATES_MORE = 3  # than num_dfv, in the authors' code of KD_SVD


def sum_over_pairs(
    pairs: Sequence[TapPair], term: Callable[[int, tf.Tensor], tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum over pairs of neighbouring taps of ``term(k, distance)``, with ``distance`` the sum
    of the squared distances of the DFVs over the batch.

    Args:
        pairs: see `op_util.dfv.compare_dfvs`. A sample with a non-finite value at either tap of a
            pair does not count there, and the others count ``B / good``.
        term: of the number of vectors and the distance, a scalar.

    Returns:
        The sum, and the share of dropped samples, a mean over pairs.
    """
    loss, dropped = 0.0, 0.0
    for k, squares, good in pairs:
        distance, share = sum_over_good(squares, good)
        loss += term(k, distance)
        dropped += share / len(pairs)
    return loss, dropped


def kd_svd_loss(
    teacher: Sequence[tf.Tensor],
    student: Sequence[tf.Tensor],
    *,
    num_dfv: int,
    candidates: int | None,
    solver: str,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The sum over pairs of neighbouring taps of ``sum((DFV_student - DFV_teacher)^2)``, summed
    over the batch (KD_methods_with_TF, modes SVD and EID).

    Args:
        teacher, student: taps ``[B, H, W, D]``, of equal D, shallow to deep.
        num_dfv, candidates, solver: see `KD_SVD`.

    Returns:
        The loss, and the share of dropped samples, a mean over pairs.
    """
    taps = align_taps(
        [as_matrix(tap) for tap in student],
        [as_matrix(tap) for tap in teacher],
        num_dfv,
        candidates=candidates or num_dfv + CANDIDATES_MORE,
        gradient="exact",
        orientation="canonical",
        solver=solver,
    )
    return sum_over_pairs(compare_dfvs(taps, num_dfv), lambda _, distance: distance)


@dataclasses.dataclass(frozen=True)
class DecomposedMaps(Maps):
    """Taps of which a method compares singular vectors.

    Attributes:
        num_dfv: how many vectors it compares.
    """

    num_dfv: int = 1

    def check(self, method: str, teacher: Any, student: Any) -> list[str]:
        notes = super().check(method, teacher, student)
        pairs = zip(as_taps(teacher), as_taps(student), strict=True)
        for number, taps in enumerate(pairs, start=1):
            channels = taps[0].shape[-1]  # The student's are adapted to them.
            for network, tap in zip(("teacher", "student"), taps, strict=True):
                positions = tap.shape[1:-1]
                if None in positions:
                    continue
                rank = min(math.prod(positions), channels)
                if rank < self.num_dfv:
                    vectors = "vector" if rank == 1 else "vectors"
                    return [
                        *notes,
                        f"{method}: the {network}'s tap {number} has {rank} singular {vectors}, so "
                        f"num_dfv is {rank} from there on, not {self.num_dfv}",
                    ]
        return notes


def svd_taps(adapter: str, **facts: Any) -> DecomposedMaps:
    """What methods of this family read: at least two taps, of equal channels or adapted."""
    return DecomposedMaps(at_least=2, channels=channels_read(adapter), mixed=True, **facts)


class BestCandidates(Method):
    """Base of `KD_SVD` and `KD_EID`: one loss, `kd_svd_loss`, by two solvers.

    Attributes:
        solver: ``"svd"`` or ``"auto"``, see `KD_SVD`.
    """

    paper = "Lee et al., ECCV 2018, as in KD_methods_with_TF"
    reduction = Reduction.SUM
    combination = Combination.CLIP
    metrics = ("dropped_share",)
    solver: ClassVar[str]

    num_dfv: int = option(1, minimum=1)
    candidates: int | None = option(None, minimum=1)
    adapter: str = option("auto", choices=("auto", "none"))

    def check(self) -> None:
        if self.candidates is not None and self.candidates < self.num_dfv:
            raise UserError(
                f"{self.label('candidates')} must be at least num_dfv ({self.num_dfv}), not "
                f"{self.candidates}"
            )

    @property
    def reads(self) -> Maps:  # type: ignore[override]
        return svd_taps(self.adapter, num_dfv=self.num_dfv)

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

    def pictures(self, teacher: Any, student: Any) -> dict[str, tuple[list[Any], list[Any]]]:
        return singular_vector_maps(teacher, student)


def singular_vector_maps(teacher: Any, student: Any) -> dict[str, tuple[list[Any], list[Any]]]:
    """The picture ``singular_vectors``: where in the images each tap's first singular vector is
    active, given by its left singular vector. Taps that are no maps are left out.

    Args and returns as for `Method.pictures`.
    """
    maps = [[tap for tap in as_taps(taps) if len(tap.shape) == 4] for taps in (teacher, student)]
    if not maps[0] or len(maps[0]) != len(maps[1]):
        return {}
    return {"singular_vectors": (_first_left_vectors(maps[0]), _first_left_vectors(maps[1]))}


def _first_left_vectors(maps: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The first left singular vector ``[B, H, W]`` of each map ``[B, H, W, D]``."""
    matrices = [as_matrix(at_least_float32(each)) for each in maps]
    found = decompose(matrices, [1] * len(maps), orientation="canonical", solver="svd")
    return [
        tf.reshape(one.left[:, :, 0], tf.shape(each)[:3])
        for one, each in zip(found, maps, strict=True)
    ]
