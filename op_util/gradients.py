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
    norm of the main task's gradient. A variable that the main loss does not reach, for example an
    adapter's, has no ``||g0||``. The mean ``||g0||`` of the other variables is used instead; if
    there is none, nothing is clipped.

    Args:
        main: ``g0``, one gradient per variable; None if the loss does not reach the variable.
        distillation: ``g1``, in the same form.
        epoch: scalar, the number of finished epochs of this training, 0 in the first.
        clip: above 0; 1 in the paper.

    Returns:
        The list of ``g``, and the share of the distillation gradient's norm (over all variables)
        that remains after clipping: 1 if nothing was clipped.
    """
    openness = clip * tf.sigmoid(tf.cast(epoch, tf.float32))
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
