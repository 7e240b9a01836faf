"""Training steps whose gradients are not finite: all of these count as zero, batch statistics stay
as they were, and the steps are counted. Momentum and weight decay of an optimizer go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from nets.keras_graph import apply_summed
from registry import UserError

SKIPPED = "skipped_steps"  # the metric's name
MOST_SKIPPED = 0.2  # of an epoch's steps, before training is given up

STATISTICS = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")
"""The names of what normalisation layers keep of the batches."""

Kept = list[tuple[keras.Variable, tf.Tensor]]


def batch_statistics(layers: Iterable[keras.layers.Layer]) -> list[keras.Variable]:
    """The moving statistics of batches in networks and layers."""
    return [
        variable for layer in layers for variable in layer.non_trainable_variables
        if variable.path.rpartition("/")[2] in STATISTICS
    ]


def values_of(variables: Iterable[keras.Variable]) -> Kept:
    """Variables with the values that they have before a step."""
    return [(variable, tf.identity(variable.value)) for variable in variables]


def apply_if_finite(
    optimizer: keras.Optimizer,
    gradients: Sequence[tf.Tensor | None],
    variables: Sequence[keras.Variable],
    kept: Kept,
) -> tf.Tensor:
    """Update the variables. Where any gradient is not finite, all count as zero.

    Args:
        optimizer: of the variables.
        gradients: of each variable, summed over replicas (see `nets.keras_graph.apply_summed`).
        variables: that are trained.
        kept: what else the step has changed, which then goes back to what it was; so does what of
            it is not finite, as the batch statistics of a GPU that got no image.

    Returns:
        1 where the step was skipped, else 0, a float32 scalar.
    """
    present = [tf.cast(gradient, tf.float32) for gradient in gradients if gradient is not None]
    norm = tf.linalg.global_norm(present) if present else 0.0
    finite = tf.math.is_finite(norm)
    applied = [None if g is None else tf.where(finite, g, 0) for g in gradients]
    apply_summed(optimizer, applied, variables)
    for variable, value in kept:
        changed = tf.convert_to_tensor(variable.value)
        usable = finite
        if changed.dtype.is_floating:
            usable = tf.logical_and(finite, tf.math.is_finite(changed))
        variable.assign(tf.where(usable, changed, value))
    return tf.cast(~finite, tf.float32)


def check_skipped(epoch: int, logs: Mapping[str, Any] | None, advice: str) -> None:
    """Give up where too many steps of an epoch were skipped.

    Args:
        epoch: from 0.
        logs: its metrics.
        advice: what to try.

    Raises:
        UserError: more than `MOST_SKIPPED` of them were.
    """
    share = (logs or {}).get(SKIPPED, 0.0)
    if share > MOST_SKIPPED:
        raise UserError(
            f"in epoch {epoch + 1} the gradients of {100 * share:.0f} % of the steps were not "
            f"finite: {advice}"
        )
