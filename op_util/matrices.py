"""Feature maps as matrices of positions by channels."""

from __future__ import annotations

import math

import tensorflow as tf


def as_matrix(tap: tf.Tensor) -> tf.Tensor:
    """A tap ``[B, H, W, D]`` as ``[B, HW, D]``, or ``[B, D]`` as ``[B, 1, D]``."""
    return tf.reshape(tap, [-1, math.prod(tap.shape[1:-1]), tap.shape[-1]])
