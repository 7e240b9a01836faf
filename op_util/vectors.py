"""Lengths of vectors and unit vectors, with gradients that are finite even at the zero vector.

At 0, automatic differentiation of ``||x||`` multiplies an infinite derivative by 0 and gives NaN.
Here the gradient is 0, one of the norm's subgradients. Zero vectors do occur: as the difference of
two equal samples of a batch, or as a channel that responds to nothing.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf


def lengths(vectors: tf.Tensor) -> tf.Tensor:
    """Euclidean norms ``[..., 1]`` of vectors ``[..., D]``."""
    squares = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    is_nonzero = squares != 0
    return tf.where(is_nonzero, tf.sqrt(tf.where(is_nonzero, squares, 1)), 0)


def unit_vectors(vectors: tf.Tensor) -> tf.Tensor:
    """``x / ||x||`` of vectors ``[..., D]``; a zero vector stays zero and gets no gradient."""
    return tf.math.divide_no_nan(vectors, lengths(vectors))


def centred_unit_vectors(vectors: tf.Tensor) -> tf.Tensor:
    """``(x - mean(x)) / ||x - mean(x)||`` of vectors ``[..., D]``; a constant one becomes zero and
    gets no gradient.

    If all entries are equal, rounding leaves a tiny remainder after the mean is subtracted. It
    counts as zero: its direction is noise, and dividing by its length would blow up the gradient.
    """
    centred = vectors - tf.reduce_mean(vectors, axis=-1, keepdims=True)
    rounding = 8 * np.finfo(vectors.dtype.as_numpy_dtype).eps
    is_constant = lengths(centred) <= rounding * lengths(vectors)
    return unit_vectors(tf.where(is_constant, tf.zeros_like(centred), centred))


def z_score(logits: tf.Tensor) -> tf.Tensor:
    """Each row of ``[B, classes]`` minus its mean, over its standard deviation; 0 where all of a
    row are equal.

    Sun et al., "Logit standardization in knowledge distillation", CVPR 2024, algorithm 1. As in
    the authors' code, the squares are divided by ``classes - 1``.
    """
    return centred_unit_vectors(logits) * math.sqrt(logits.shape[1] - 1)
