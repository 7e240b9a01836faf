"""Combine the gradients of the main task and of distillation (Lee, Kim, Song 2018, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def clip_by_norm(gradient: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """Scale `gradient` down to the norm `bound` if it is longer.

    Unlike `tf.clip_by_norm`, a zero gradient clipped to zero stays zero instead of becoming NaN.
    """
    norm = tf.norm(gradient)
    return gradient * tf.where(norm > bound, tf.math.divide_no_nan(bound, norm), 1)


def clipped_combination(
    main: Sequence[tf.Tensor | None],
    distillation: Sequence[tf.Tensor | None],
    epoch: tf.Tensor,
    clip: float = 1.0,
) -> tuple[list[tf.Tensor | None], tf.Tensor]:
    """``g = g0 + clip_by_norm(g1, clip ||g0|| sigmoid(epoch))``, separately for each variable.

    The bound on the distillation gradient rises with the epochs, but never above `clip` times the
    norm of the main task's gradient.

    Args:
        main: ``g0``, one gradient per variable; None if the loss does not reach the variable.
        distillation: ``g1``, in the same form.
        epoch: scalar, the number of finished epochs of this training, 0 in the first.
        clip: above 0; 1 in the paper.

    Returns:
        The list of ``g``, and the `share_left` of the distillation gradient.
    """
    passed = clipped_gradient(main, distillation, epoch, clip)
    return added_gradients(main, passed), share_left(distillation, passed)


def clipped_gradient(
    main: Sequence[tf.Tensor | None],
    distillation: Sequence[tf.Tensor | None],
    epoch: tf.Tensor,
    clip: float = 1.0,
) -> list[tf.Tensor | None]:
    """``clip_by_norm(g1, clip ||g0|| sigmoid(epoch))``, the second summand of
    `clipped_combination`, whose arguments these are.

    A variable that the main loss does not reach, for example an adapter's, has no ``||g0||``. The
    mean ``||g0||`` of the other variables is used instead; if there is none, nothing is clipped.
    """
    openness = clip * tf.sigmoid(tf.cast(epoch, tf.float32))
    norms = [None if g0 is None else tf.norm(g0) for g0 in main]
    present = [norm for norm in norms if norm is not None]
    if not present:
        return list(distillation)
    usual = tf.add_n(present) / len(present)
    found: list[tf.Tensor | None] = []
    for g1, norm in zip(distillation, norms, strict=True):
        if g1 is not None:
            norm = usual if norm is None else norm
            g1 = clip_by_norm(g1, tf.cast(norm * tf.cast(openness, norm.dtype), g1.dtype))
        found.append(g1)
    return found


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
    """Which share of a gradient's norm, over all variables, clipping has left; 1 of zero."""
    whole, passed = ([g for g in each if g is not None] for each in (before, after))
    if not whole:
        return tf.constant(1.0)
    norm = tf.linalg.global_norm(whole)
    return tf.where(norm > 0, tf.math.divide_no_nan(tf.linalg.global_norm(passed), norm), 1)
