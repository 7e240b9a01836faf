"""Combine the gradients of the main task and of distillation (Lee, Kim, Song 2018, section 3.3)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import tensorflow as tf


def clip_by_norm(gradient: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Scale `gradient` down to the norm `bound` if it is longer.

    Unlike `tf.clip_by_norm`, a zero gradient clipped to zero stays zero instead of becoming NaN.

    Args:
        gradient: of any shape; its norm is that of all entries together.
        bound: a scalar of the same dtype, at least 0.

    Returns:
        A tensor of the shape and dtype of `gradient`.
    """
    norm = tf.norm(gradient)
    return gradient * tf.where(norm > bound, tf.math.divide_no_nan(bound, norm), 1)


def clipped_combination(
    main: Sequence[tf.Tensor | None],
    distillation: Sequence[Sequence[tf.Tensor | None]],
    epochs: Sequence[tf.Tensor],
    clips: Sequence[float] = (1.0,),
) -> tuple[list[tf.Tensor | None], tf.Tensor]:
    """``g = g0 + clip_by_norm(g1, clip ||g0|| sigmoid(epoch))``, separately for each variable.

    The bound on the distillation gradient rises with the epochs, but never above `clip` times the
    norm of the main task's gradient. Each of several methods adds a clipped gradient of its own.

    Args:
        main: ``g0``, one gradient per variable; None if the loss does not reach the variable.
        distillation: ``g1`` of each method, in the same form.
        epochs: for each method, the number of finished epochs, a scalar, 0 in the first.
        clips: for each method, above 0; 1 in the paper.

    Returns:
        The list of ``g``, and the `share_left` of the distillation gradients.
    """
    passed = [
        clipped_gradient(main, *each) for each in zip(distillation, epochs, clips, strict=True)
    ]
    before, after = (list(itertools.chain(*each)) for each in (distillation, passed))
    return functools.reduce(added_gradients, passed, list(main)), share_left(before, after)


def clipped_gradient(
    main: Sequence[tf.Tensor | None],
    distillation: Sequence[tf.Tensor | None],
    epoch: tf.Tensor,
    clip: float = 1.0,
) -> list[tf.Tensor | None]:
    """``clip_by_norm(g1, clip ||g0|| sigmoid(epoch))`` of one method, see `clipped_combination`.

    A variable that the main loss does not reach, for example an adapter's, has no ``||g0||``. The
    mean ``||g0||`` of the other variables is used instead; if there is none, nothing is clipped.
    """
    factor = clip * tf.sigmoid(tf.cast(epoch, tf.float32))
    norms = [None if g0 is None else tf.norm(g0) for g0 in in_one_dtype(main)]
    known = [norm for norm in norms if norm is not None]
    if not known:
        return list(distillation)
    mean_norm = tf.add_n(known) / len(known)
    clipped: list[tf.Tensor | None] = []
    for g1, norm in zip(distillation, norms, strict=True):
        if g1 is not None:
            norm = mean_norm if norm is None else norm
            g1 = clip_by_norm(g1, tf.cast(norm * tf.cast(factor, norm.dtype), g1.dtype))
        clipped.append(g1)
    return clipped


def added_gradients(
    one: Sequence[tf.Tensor | None], other: Sequence[tf.Tensor | None]
) -> list[tf.Tensor | None]:
    """The sum of two gradients, variable by variable; None where neither loss reaches it."""
    return [
        second if first is None else first if second is None else first + second
        for first, second in zip(one, other, strict=True)
    ]


def share_left(
    before: Sequence[tf.Tensor | None], after: Sequence[tf.Tensor | None]
) -> tf.Tensor:
    """The share of a gradient's norm, over all variables, that clipping leaves; 1 for a zero
    one."""
    whole, passed = ([g for g in each if g is not None] for each in (before, after))
    if not whole:
        return tf.constant(1.0)
    norm, left = (tf.linalg.global_norm(in_one_dtype(each)) for each in (whole, passed))
    return tf.where(norm > 0, tf.math.divide_no_nan(left, norm), 1)


def in_one_dtype(tensors: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Each in the widest of their dtypes, at least float32; None stays None."""
    present = [each for each in tensors if each is not None]
    dtype = tf.float64 if any(each.dtype == tf.float64 for each in present) else tf.float32
    return [None if each is None else tf.cast(each, dtype) for each in tensors]
