"""Maps of teacher and student, tap by tap, for losses in which their channels need not agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distillers.checks import described, tap_pairs
from op_util.pooling import adaptive_average_pool
from op_util.precision import at_least_float32
from registry import UserError


def map_pairs(method: str, teacher: Sequence[Any], student: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The taps ``[B, H, W, D]`` of teacher and student in pairs; taps ``[B, D]`` are left out.

    Raises:
        UserError: the taps do not pair up, a map meets a vector, or there is no map.
    """
    tap_pairs(method, teacher, student, at_least=1, equal_channels=False, equal_ranks=True)
    pairs = [pair for pair in zip(teacher, student, strict=True) if len(pair[0].shape) == 4]
    if not pairs:
        raise UserError(
            f"{method} compares maps, and all {len(teacher)} taps are vectors: name layers that "
            "give maps"
        )
    return pairs


def last_maps(method: str, teacher: Sequence[Any], student: Sequence[Any]) -> tuple[Any, Any]:
    """The last tap of teacher and student.

    Raises:
        UserError: the taps do not pair up, or the last is no map.
    """
    tap_pairs(method, teacher, student, at_least=1, equal_channels=False, equal_ranks=True)
    if len(teacher[-1].shape) != 4:
        raise UserError(
            f"{method} compares the last tap, which has to be a map: tap {len(teacher)} is a "
            f"vector ({described(teacher[-1])}); name a layer that gives a map last"
        )
    return teacher[-1], student[-1]


def smaller_size(teacher: Any, student: Any) -> tuple[int, int]:
    """Height and width of the smaller of two maps."""
    sizes = zip(teacher.shape[1:3], student.shape[1:3], strict=True)
    return tuple(min(pair) for pair in sizes)


def at_one_size(teacher: tf.Tensor, student: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Two maps, the larger pooled to the size of the smaller, in at least float32; the teacher's
    without a gradient and of the student's dtype."""
    size = smaller_size(teacher, student)
    student = at_least_float32(student)
    teacher = tf.cast(tf.stop_gradient(teacher), student.dtype)
    return adaptive_average_pool(teacher, size), adaptive_average_pool(student, size)


def size_notes(teacher: Sequence[Any], student: Sequence[Any], first: int = 1) -> list[str]:
    """A line for each tap at which `at_one_size` will pool one of the maps; the taps are numbered
    from `first`."""
    notes = []
    for number, (theirs, ours) in enumerate(zip(teacher, student, strict=True), start=first):
        if theirs.shape[1:-1] != ours.shape[1:-1]:
            size = "x".join(map(str, smaller_size(theirs, ours)))
            notes.append(
                f"tap {number} (teacher: {described(theirs)}; student: {described(ours)}): "
                f"compared at {size}, the smaller size"
            )
    return notes
