"""Check before training that the taps and logits of teacher and student are compatible."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nets.keras_graph import producer
from registry import UserError


def needs_teacher_itself(method: Any, names: Iterable[str]) -> str | None:
    """Why the teacher's precomputed features `names` cannot replace the teacher, in a few words;
    None if they can.

    Args:
        method: a method or a sum.
        names: such as ``"logits"``.
    """
    for member in method.members:
        if member.trains_teacher:
            return f"{member.name} trains the teacher"
        lacking = [reading.key for reading in member.readings if reading.key not in names]
        if lacking:
            return f"{member.name} reads {' and '.join(lacking)}"
    return None


def check_given_outputs(method: Any, names: Iterable[str]) -> None:
    """Raise UserError unless a method can learn from the teacher's features `names` that a batch
    brings."""
    reason = needs_teacher_itself(method, names)
    if reason:
        raise UserError(
            f"batches bring the teacher's {' and '.join(names)}, but {reason}: leave 'teacher' out "
            "of the batches"
        )


def check_tap_pairs(
    method: str,
    teacher: Sequence[Any],
    student: Sequence[Any],
    at_least: int,
    *,
    equal_channels: bool = True,
    equal_sizes: bool = False,
    equal_ranks: bool = False,
) -> None:
    """Raise UserError unless the taps of teacher and student form pairs and have static shapes.

    Args:
        method: the method's name, for messages.
        teacher, student: anything with a ``shape``: ``[B, H, W, D]``, ``[B, N, D]`` or ``[B, D]``.
        at_least: the smallest number of taps the method needs.
        equal_channels: whether D must be equal at each tap.
        equal_sizes: whether H and W must be equal at each tap.
        equal_ranks: whether maps may be paired only with maps, vectors with vectors and tokens with
            tokens.
    """
    if len(teacher) != len(student) or len(teacher) < at_least:
        raise UserError(
            f"{method} needs the same number of taps of teacher and student, and at least "
            f"{at_least}: the teacher has {len(teacher)}, the student {len(student)}; name as many "
            "layers of each, by --teacher_taps and --student_taps (--list_layers marks taps)"
        )
    for number, (one, other) in enumerate(zip(teacher, student, strict=True), start=1):
        for network, tap in (("teacher", one), ("student", other)):
            check_known_size(method, f"tap {number} of the {network}", tap)
        both = f"in the teacher ({describe(one)})", f"in the student ({describe(other)})"
        if (equal_ranks or equal_sizes) and len(one.shape) != len(other.shape):
            kinds = [kind_of(tap) for tap in (one, other)]
            raise UserError(
                f"{method} compares maps with maps and vectors with vectors: tap {number} is "
                f"{kinds[0]} {both[0]} and {kinds[1]} {both[1]}"
            )
        if equal_channels and one.shape[-1] != other.shape[-1]:
            raise UserError(
                f"{method} needs equal channels at each tap: tap {number} has {one.shape[-1]} "
                f"{both[0]} and {other.shape[-1]} {both[1]}"
            )
        if equal_sizes and one.shape[1:-1] != other.shape[1:-1]:
            sizes = ["x".join(map(str, tap.shape[1:-1])) for tap in (one, other)]
            raise UserError(
                f"{method} needs maps of equal size at each tap: tap {number} is {sizes[0]} "
                f"{both[0]} and {sizes[1]} {both[1]}"
            )


def check_known_size(method: str, name: str, tap: Any) -> None:
    """Raise UserError if the shape of the tap `name` depends on the image."""
    if None in tap.shape[1:]:
        raise UserError(
            f"{method} needs maps of a known size, but {name} has a variable size "
            f"({describe(tap)}): build the network for images of one size"
        )


def same_classes(method: str, teacher: Any, student: Any) -> None:
    """Raise UserError unless teacher and student have equally many logits ``[B, classes]``."""
    if teacher.shape[-1] != student.shape[-1]:
        raise UserError(
            f"{method} needs a teacher with the student's classes: the teacher has "
            f"{teacher.shape[-1]} logits, the student {student.shape[-1]}"
        )


def kind_of(tap: Any) -> str:
    """What a tap is, for messages.

    ``"a map"`` for ``[B, H, W, D]``, ``"a sequence of tokens"`` for ``[B, N, D]``, ``"a vector"``
    for ``[B, D]``.
    """
    return {4: "a map", 3: "a sequence of tokens"}.get(len(tap.shape), "a vector")


def describe(tap: Any) -> str:
    """A tap's layer and shape, for messages."""
    operation = producer(tap)
    return f"{operation.name if operation else 'tap'}, shape {tuple(tap.shape)}"
