"""FSP: the flow of the solution procedure, the student's inner products between layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from distillers.checks import tap_pairs
from distillers.method import Method
from distillers.registration import register
from op_util.singular_vectors import at_least_float32
from registry import UserError


@register("FSP")
@dataclasses.dataclass(eq=False)
class FSP(Method):
    """Yim, Joo, Bae & Kim, "A gift from knowledge distillation", CVPR 2017.

    Here as Lee, Kim, Song (2018) compare it: next to the main task, its gradient clipped against
    the main task's, summed and scaled as in their published code.
    """

    paper = "Yim et al., CVPR 2017"
    combination = "clip"

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        teacher, student = _maps(teacher_outputs), _maps(student_outputs)
        tap_pairs("FSP", teacher, student, at_least=2)
        for whose, maps in (("teacher", teacher), ("student", student)):
            for number, (top, bottom) in enumerate(zip(maps, maps[1:], strict=False), start=1):
                if _size_compared(top, bottom) != tuple(bottom.shape[1:3]):
                    raise UserError(
                        f"FSP needs neighbouring maps of equal size, or the upper twice as large: "
                        f"taps {number} and {number + 1} of the {whose} are "
                        f"{top.shape[1]}x{top.shape[2]} and {bottom.shape[1]}x{bottom.shape[2]}"
                    )

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """``sum over pairs of mean over batch of ||G_student - G_teacher||^2 / 2``, divided by the
        number of entries of all the G of one image.

        Args:
            teacher_outputs, student_outputs: taps, shallow to deep; those of shape ``[B, H, W, D]``
                are used, in neighbouring pairs.
        """
        teacher, student = _maps(teacher_outputs), _maps(student_outputs)
        total, entries = 0.0, 0
        for i in range(len(student) - 1):
            ours = fsp_matrix(student[i], student[i + 1])
            theirs = tf.stop_gradient(fsp_matrix(teacher[i], teacher[i + 1]))
            squares = tf.square(ours - tf.cast(theirs, ours.dtype))
            total += tf.reduce_mean(tf.reduce_sum(squares, axis=[1, 2])) / 2
            entries += ours.shape[1] * ours.shape[2]
        return total / entries


def _maps(taps: Sequence[Any]) -> list[Any]:
    """The taps of shape ``[B, H, W, D]``."""
    return [tap for tap in taps if len(tap.shape) == 4]


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
    positions = bottom.shape[1] * bottom.shape[2]
    top = tf.reshape(top, [-1, top.shape[1] * top.shape[2], top.shape[3]])
    bottom = tf.reshape(bottom, [-1, positions, bottom.shape[3]])
    return tf.matmul(top, bottom, transpose_a=True) / positions
