"""Weight decay as part of the gradients."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf


def with_weight_decay(
    gradients: Sequence[tf.Tensor | None], variables: Sequence[keras.Variable], decay: float
) -> list[tf.Tensor | None]:
    """Add the gradient of ``decay / 2 ||w||^2`` for all kernels to the gradients of the losses.

    A kernel that no loss reaches (its gradient is None) is left unchanged. If decay were its whole
    gradient, an optimizer that divides by the gradient's magnitude (Adam, for example) would take
    full steps towards zero.

    Args:
        gradients: gradients of the losses, one per variable, in the same order.
        variables: a variable is a kernel if its path ends with ``kernel``. Biases and the weights
            of normalisation layers do not decay.
        decay: at least 0.

    Returns:
        The gradients, with unchanged dtypes; None stays None.
    """
    return [
        gradient + decay * tf.cast(variable.value, gradient.dtype)
        if gradient is not None and variable.path.endswith("kernel") else gradient
        for gradient, variable in zip(gradients, variables, strict=True)
    ]
