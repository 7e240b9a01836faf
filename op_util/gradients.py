"""The main task's and the distillation's gradients made into one (Lee, Kim, Song 2018, 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def clip_by_norm(gradient: tf.Tensor, bound: tf.Tensor) -> tf.Tensor:
    """`gradient`, scaled down to the norm `bound` where it is longer. Unlike `tf.clip_by_norm`,
    zero clipped to zero is zero, not NaN."""
    norm = tf.norm(gradient)
    return gradient * tf.where(norm > bound, tf.math.divide_no_nan(bound, norm), 1)


def clipped_combination(
    main: Sequence[tf.Tensor | None], distillation: Sequence[tf.Tensor | None], epoch: tf.Tensor
) -> tuple[list[tf.Tensor | None], tf.Tensor]:
    """``g = g0 + clip_by_norm(g1, ||g0|| sigmoid(epoch))``, for each variable by itself.

    The more is learned, the more of the teacher's gradient is let through, but it never outweighs
    the main task's. A variable that the main loss does not reach, such as an adapter's, has no
    ``||g0||``: the mean of the others' takes its place, or nothing is clipped where there is none.

    Args:
        main: ``g0``, a gradient (or None) for each variable.
        distillation: ``g1``, likewise; None where the loss does not reach the variable.
        epoch: scalar, the number of finished epochs of this training, 0 in the first.

    Returns:
        The list of ``g``, and which share of the distillation gradient (norm over all variables)
        the clip lets through: 1 where it does nothing.
    """
    openness = tf.sigmoid(tf.cast(epoch, tf.float32))
    norms = [None if g0 is None else tf.norm(g0) for g0 in main]
    present = [norm for norm in norms if norm is not None]
    usual = tf.add_n(present) / len(present) if present else None
    combined, whole, passed = [], [], []
    for g0, g1, norm in zip(main, distillation, norms, strict=True):
        if g1 is None or usual is None:
            combined.append(g1 if g0 is None else g0)
            continue
        norm = usual if norm is None else norm
        clipped = clip_by_norm(g1, tf.cast(norm * tf.cast(openness, norm.dtype), g1.dtype))
        combined.append(clipped if g0 is None else g0 + clipped)
        whole.append(g1)
        passed.append(clipped)
    if not whole:
        return combined, tf.constant(1.0)
    before, after = tf.linalg.global_norm(whole), tf.linalg.global_norm(passed)
    return combined, tf.where(before > 0, tf.math.divide_no_nan(after, before), 1)
