"""What a method reads from both networks: which features, at which size and in which type.

    class AT(Method):
        reads = Maps(sizes="smaller", vectors="skip")

A reading selects features by its `key`, checks their shapes before training, and prepares the real
tensors: in at least float32, without a gradient into the teacher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import tensorflow as tf

from distillers.checks import check_known_size, check_tap_pairs, describe, kind_of, same_classes
from op_util.pooling import adaptive_average_pool
from op_util.precision import at_least_float32
from registry import UserError


@dataclasses.dataclass(frozen=True)
class Reading:
    """A kind of features that a loss compares.

    Attributes:
        key: the features' name in a network's dict of features.
    """

    key: ClassVar[str] = ""

    def check(self, method: str, teacher: Any, student: Any) -> list[str]:
        """Check that the features suit the method.

        Args:
            method: the method's name, for messages.
            teacher, student: features, symbolic or not.

        Returns:
            Notes for the user on how the features are compared, one line each.

        Raises:
            UserError: the features do not suit the method.
        """
        return []

    def prepare(self, teacher: Any, student: Any, *, learns: bool = False) -> tuple[Any, Any]:
        """Prepare the features for the loss: both in the same type, at least float32.

        Args:
            teacher, student: features that `check` has accepted.
            learns: whether the teacher is trained too; otherwise it gets no gradient.
        """
        student = at_least_float32(student)
        teacher = teacher if learns else tf.stop_gradient(teacher)
        return tf.cast(teacher, student.dtype), student


@dataclasses.dataclass(frozen=True)
class Embedding(Reading):
    """The embeddings ``[B, D]``.

    Attributes:
        widths: ``"any"``, or ``"equal"`` if both must have the same D.
    """

    key: ClassVar[str] = "embedding"
    widths: Literal["any", "equal"] = "any"

    def check(self, method: str, teacher: Any, student: Any) -> list[str]:
        if self.widths == "equal" and teacher.shape[-1] != student.shape[-1]:
            raise UserError(
                f"{method} needs embeddings of equal width: the teacher's has {teacher.shape[-1]} "
                f"features, the student's {student.shape[-1]}"
            )
        return []


@dataclasses.dataclass(frozen=True)
class Logits(Reading):
    """The logits ``[B, classes]``; teacher and student must have the same classes."""

    key: ClassVar[str] = "logits"

    def check(self, method: str, teacher: Any, student: Any) -> list[str]:
        same_classes(method, teacher, student)
        return []


@dataclasses.dataclass(frozen=True)
class Maps(Reading):
    """The taps, shallow to deep, in pairs of teacher and student.

    Taps are maps ``[B, H, W, D]``, tokens ``[B, N, D]`` or vectors ``[B, D]``.

    Attributes:
        at_least: the smallest number of pairs the method needs.
        sizes: requirements on height and width in a pair. ``"any"``: none. ``"equal"``: they must
            be equal. ``"smaller"``: the larger map is averaged to the size of the smaller.
            ``"adapted"``: the method resizes them itself. Except for ``"any"``, both networks must
            have equally many tokens.
        channels: requirements on D in a pair. ``"any"``: none. ``"equal"``: they must be equal.
            ``"adapt"``: if they differ, a 1x1 convolution, trained with the student, adapts the
            student's tap to the teacher's (see `Method.build`).
        vectors: ``"keep"``, or ``"skip"`` to use only maps.
        tokens: whether the method accepts tokens.
        mixed: whether a map may be paired with a vector.
    """

    key: ClassVar[str] = "maps"
    at_least: int = 1
    sizes: Literal["any", "equal", "smaller", "adapted"] = "any"
    channels: Literal["any", "equal", "adapt"] = "any"
    vectors: Literal["keep", "skip"] = "keep"
    tokens: bool = True
    mixed: bool = False

    def check(self, method: str, teacher: Any, student: Any) -> list[str]:
        teacher, student = as_taps(teacher), as_taps(student)
        needed = 1 if self.vectors == "skip" else self.at_least
        check_tap_pairs(
            method, teacher, student, at_least=needed, equal_channels=self.channels == "equal",
            equal_sizes=self.sizes == "equal", equal_ranks=not self.mixed,
        )
        pairs = self.pairs(teacher, student)
        if len(pairs) < self.at_least:
            vectors = len(teacher) - len(pairs)
            raise UserError(
                f"{method} compares maps and needs at least {self.at_least}, but "
                f"got {len(pairs)}: name more layers as taps" if not vectors else
                f"{method} compares maps and needs at least {self.at_least}, but {vectors} of "
                f"{len(teacher)} taps are vectors: name layers that give maps"
            )
        self._check_tokens(method, pairs)
        if self.mixed:
            return [
                f"tap {number} ({describe(ours)}) is a vector: it is treated as a matrix with one "
                "row, which has one singular vector"
                for number, ours in enumerate(student, start=1) if len(ours.shape) == 2
            ]
        if self.sizes != "smaller":
            return []
        return [
            f"tap {number} (teacher: {describe(theirs)}; student: {describe(ours)}): compared at "
            f"{size_text(smaller_size(theirs, ours))}, the smaller size"
            for number, (theirs, ours) in enumerate(zip(teacher, student, strict=True), start=1)
            if len(ours.shape) == 4 and theirs.shape[1:-1] != ours.shape[1:-1]
        ]

    def _check_tokens(self, method: str, pairs: list[tuple[Any, Any]]) -> None:
        """Raise UserError if there are tokens that the method cannot compare."""
        for pair in pairs:
            tokens = [tap for tap in pair if len(tap.shape) == 3]
            if tokens and not self.tokens:
                raise UserError(
                    f"{method} compares maps [H, W, D] and vectors [D], but {describe(tokens[0])} "
                    "gives tokens: name layers that give maps or vectors"
                )
            if len(tokens) == 2 and self.sizes != "any" and pair[0].shape[1] != pair[1].shape[1]:
                raise UserError(
                    f"{method} needs as many tokens of the teacher as of the student at each tap: "
                    f"the teacher has {pair[0].shape[1]} ({describe(pair[0])}), the student "
                    f"{pair[1].shape[1]} ({describe(pair[1])})"
                )

    def prepare(
        self, teacher: Any, student: Any, *, learns: bool = False
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Prepare the taps. Returns a list for the teacher and one for the student."""
        pairs = [
            super(Maps, self).prepare(*pair, learns=learns)
            for pair in self.pairs(teacher, student)
        ]
        if self.sizes == "smaller":
            pairs = [at_one_size(*pair) for pair in pairs]
        return [theirs for theirs, _ in pairs], [ours for _, ours in pairs]

    def pairs(self, teacher: Any, student: Any) -> list[tuple[Any, Any]]:
        """The taps to compare, as (teacher, student) pairs."""
        return [
            (theirs, ours) for theirs, ours in zip(as_taps(teacher), as_taps(student), strict=True)
            if self.vectors == "keep" or len(ours.shape) == 4
        ]


@dataclasses.dataclass(frozen=True)
class LastMap(Reading):
    """The last tap of each network, however many others there are.

    Attributes:
        maps_only: whether it must be a map ``[B, H, W, D]``.
        vectors: whether a vector ``[B, D]`` is accepted too, as a map of one position.
        sizes: ``"any"``; ``"smaller"`` if the larger map is averaged to the size of the smaller;
            ``"adapted"`` if the method itself compares them at the smaller size.
        channels: ``"any"``, or ``"equal"`` if both must have the same D.
    """

    key: ClassVar[str] = "maps"
    maps_only: bool = True
    vectors: bool = False
    sizes: Literal["any", "smaller", "adapted"] = "any"
    channels: Literal["any", "equal"] = "any"

    def check(self, method: str, teacher: Any, student: Any) -> list[str]:
        for network, taps in (("teacher", teacher), ("student", student)):
            if not len(as_taps(taps)):
                raise UserError(f"{method} compares the last tap, but the {network} has no taps")
            last = as_taps(taps)[-1]
            check_known_size(method, f"the last tap of the {network}", last)
            taken = (2, 4) if self.vectors else (4,)
            if self.maps_only and len(last.shape) not in taken:
                kinds = "a map or a vector" if self.vectors else "a map"
                raise UserError(
                    f"{method} compares the last tap, which must be {kinds}; the {network}'s is "
                    f"{kind_of(last)} ({describe(last)}): name a layer that gives one last"
                )
        theirs, ours = as_taps(teacher)[-1], as_taps(student)[-1]
        if self.channels == "equal" and theirs.shape[-1] != ours.shape[-1]:
            raise UserError(
                f"{method} needs equal channels at the last tap: it has {theirs.shape[-1]} in the "
                f"teacher ({describe(theirs)}) and {ours.shape[-1]} in the student "
                f"({describe(ours)})"
            )
        if self.sizes == "any" or theirs.shape[1:-1] == ours.shape[1:-1]:
            return []
        return [
            f"last tap (teacher: {describe(theirs)}; student: {describe(ours)}): compared at "
            f"{size_text(smaller_size(theirs, ours))}, the smaller size"
        ]

    def prepare(
        self, teacher: Any, student: Any, *, learns: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        pair = super().prepare(as_taps(teacher)[-1], as_taps(student)[-1], learns=learns)
        return at_one_size(*pair) if self.sizes == "smaller" else pair


@dataclasses.dataclass(frozen=True)
class Outputs(Reading):
    """The models' own outputs, or one tap of each, in their own types.

    For losses that were not written for this project.
    """

    key: ClassVar[str] = "outputs"

    def prepare(self, teacher: Any, student: Any, *, learns: bool = False) -> tuple[Any, Any]:
        teacher = tf.nest.map_structure(
            lambda theirs, ours: tf.cast(theirs, ours.dtype), teacher, student
        )
        return (teacher if learns else tf.nest.map_structure(tf.stop_gradient, teacher)), student


def as_taps(taps: Any) -> Sequence[Any]:
    """`taps` as a list. A single tensor counts as the only tap."""
    return taps if isinstance(taps, (list, tuple)) else [taps]


def smaller_size(teacher: Any, student: Any) -> tuple[int, int]:
    """Height and width of the smaller of two maps ``[B, H, W, D]``; 1x1 where one is a vector."""
    sizes = (tap.shape[1:3] if len(tap.shape) == 4 else (1, 1) for tap in (teacher, student))
    return tuple(min(pair) for pair in zip(*sizes, strict=True))


def at_one_size(teacher: tf.Tensor, student: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Average the larger of two maps ``[B, H, W, D]`` to the size of the smaller.

    Vectors are not changed.
    """
    if len(student.shape) != 4:
        return teacher, student
    size = smaller_size(teacher, student)
    return adaptive_average_pool(teacher, size), adaptive_average_pool(student, size)


def size_text(size: Sequence[int]) -> str:
    """The text of a size, for example ``8x8``."""
    return "x".join(map(str, size))
