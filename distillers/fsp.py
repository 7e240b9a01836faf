"""FSP: the flow of the solution procedure, the student's inner products between layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import tensorflow as tf

from distillers.checks import in_range, one_of, tap_pairs
from distillers.method import Method, Stage
from distillers.registration import register
from op_util.pooling import adaptive_average_pool
from op_util.precision import at_least_float32
from registry import UserError

DEFINITIONS = ("sskd_svd", "repdistiller")


@register("FSP")
@dataclasses.dataclass(eq=False)
class FSP(Method):
    """Yim, Joo, Bae & Kim, "A gift from knowledge distillation", CVPR 2017.

    By default as Lee, Kim, Song (2018) compare it: next to the main task, its gradient clipped
    against the main task's. With `staged`, as its own paper has it: first the layers up to the
    deepest tap learn this loss alone, then the whole student the main task alone.

    Args:
        staged: whether to train in the paper's two stages.
        init_share: of the epochs, for the first stage of two: RepDistiller's 30 epochs before 240.
        definition: ``"sskd_svd"``: summed and scaled as in the published code of Lee et al.;
            ``"repdistiller"``: as in RepDistiller, where maps of any two sizes can be neighbours.
    """

    paper = "Yim et al., CVPR 2017"
    combination = "clip"

    staged: bool = False
    init_share: float = 0.11
    definition: str = "sskd_svd"

    def __post_init__(self) -> None:
        in_range("FSP", 0, 1, init_share=self.init_share)
        one_of("FSP", DEFINITIONS, definition=self.definition)
        self._taps: tuple[int, ...] | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        if not self.staged:
            return (Stage("train"),)
        return (
            Stage("init", self.init_share, main_loss=False, trains="taps", taps=self._taps),
            Stage("train", 1 - self.init_share, distillation_loss=False, new_optimizer=True),
        )

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        teacher, student = _maps(teacher_outputs), _maps(student_outputs)
        tap_pairs("FSP", teacher, student, at_least=2)
        self._taps = tuple(i for i, tap in enumerate(student_outputs) if len(tap.shape) == 4)
        if self.definition == "repdistiller":
            return
        for whose, maps in (("teacher", teacher), ("student", student)):
            for number, (top, bottom) in enumerate(pairwise(maps), start=1):
                if _size_compared(top, bottom) != tuple(bottom.shape[1:3]):
                    raise UserError(
                        f"FSP needs neighbouring maps of equal size, or the upper twice as large: "
                        f"taps {number} and {number + 1} of the {whose} are "
                        f"{top.shape[1]}x{top.shape[2]} and {bottom.shape[1]}x{bottom.shape[2]} "
                        f"(definition=repdistiller takes any)"
                    )

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """What the FSP matrices of teacher and student differ by.

        ``sskd_svd``: ``sum over pairs of mean over batch of ||G_student - G_teacher||^2 / 2``,
        divided by the number of entries of all the G of one image. ``repdistiller``: ``sum over
        pairs of mean over batch and entries of (G_student - G_teacher)^2``.

        Args:
            teacher_outputs, student_outputs: taps, shallow to deep; those of shape ``[B, H, W, D]``
                are used, in neighbouring pairs.
        """
        if self.definition == "repdistiller":
            squares = _squared_differences(teacher_outputs, student_outputs, averaged_fsp_matrix)
            return tf.add_n([tf.reduce_mean(one) for one in squares])
        squares = _squared_differences(teacher_outputs, student_outputs, fsp_matrix)
        entries = sum(one.shape[1] * one.shape[2] for one in squares)
        return tf.add_n(
            [tf.reduce_mean(tf.reduce_sum(one, axis=[1, 2])) / 2 for one in squares]
        ) / entries


def _maps(taps: Sequence[Any]) -> list[Any]:
    """The taps of shape ``[B, H, W, D]``."""
    return [tap for tap in taps if len(tap.shape) == 4]


def _squared_differences(
    teacher: Sequence[tf.Tensor],
    student: Sequence[tf.Tensor],
    matrix: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> list[tf.Tensor]:
    """``(G_student - G_teacher)^2 [B, D_top, D_bottom]`` for each two neighbouring maps."""
    ours, theirs = (
        [matrix(top, bottom) for top, bottom in pairwise(_maps(taps))]
        for taps in (student, teacher)
    )
    return [
        tf.square(g_student - tf.stop_gradient(tf.cast(g_teacher, g_student.dtype)))
        for g_student, g_teacher in zip(ours, theirs, strict=True)
    ]


def _size_compared(top: Any, bottom: Any) -> tuple[int, int]:
    """Height and width of `top`, after the pooling where it is taller than `bottom`."""
    pooled = 2 if top.shape[1] > bottom.shape[1] else 1
    return tuple(-(-size // pooled) for size in top.shape[1:3])


def fsp_matrix(top: tf.Tensor, bottom: tf.Tensor) -> tf.Tensor:
    """``G = top^T bottom / (H W)``: the FSP matrix of two neighbouring maps (Yim et al., eq. 1).

    Args:
        top: ``[B, H, W, D_top]``; max-pooled by 2 where it is taller than `bottom`.
        bottom: ``[B, H', W', D_bottom]``.

    Returns:
        ``[B, D_top, D_bottom]``, at least float32.
    """
    top, bottom = at_least_float32(top), at_least_float32(bottom)
    if top.shape[1] > bottom.shape[1]:
        top = tf.nn.max_pool2d(top, 2, 2, "SAME")
    return _inner_products(top, bottom)


def averaged_fsp_matrix(top: tf.Tensor, bottom: tf.Tensor) -> tf.Tensor:
    """`fsp_matrix` as RepDistiller has it: the larger map is averaged to the smaller one's size.

    Args and returns as `fsp_matrix`.
    """
    top, bottom = at_least_float32(top), at_least_float32(bottom)
    size = tuple(map(min, top.shape[1:3], bottom.shape[1:3]))
    return _inner_products(*(adaptive_average_pool(maps, size) for maps in (top, bottom)))


def _inner_products(top: tf.Tensor, bottom: tf.Tensor) -> tf.Tensor:
    """``sum over positions of top bottom^T``, divided by their number: ``[B, D_top, D_bottom]``."""
    positions = bottom.shape[1] * bottom.shape[2]
    top = tf.reshape(top, [-1, top.shape[1] * top.shape[2], top.shape[3]])
    bottom = tf.reshape(bottom, [-1, positions, bottom.shape[3]])
    return tf.matmul(top, bottom, transpose_a=True) / positions
