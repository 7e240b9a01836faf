"""Losses between two views of each image that need no negatives.

All take embeddings ``[B, D]`` and compute in float32.
"""

from __future__ import annotations

import tensorflow as tf

from op_util.metric_learning import normalised

_BARLOW_EPSILON = 1e-5  # from the authors' batch normalisation
_VICREG_EPSILON = 1e-4  # the paper's, equation 2


def barlow_twins(first: tf.Tensor, second: tf.Tensor, redundancy: float = 5e-3) -> tf.Tensor:
    """``sum_i (1 - C_ii)^2 + redundancy sum_{i != j} C_ij^2`` with C the views' cross-correlations.

    Zbontar et al., "Barlow Twins", ICML 2021, equations 1 and 2.

    Args:
        first, second: the views' embeddings, ``[B, D]``.
        redundancy: the paper's lambda.

    Returns:
        A float32 scalar.
    """
    first, second = standardized(first), standardized(second)
    correlations = tf.matmul(first, second, transpose_a=True) / count(first)
    diagonal = tf.linalg.diag_part(correlations)
    others = tf.reduce_sum(correlations**2) - tf.reduce_sum(diagonal**2)
    return tf.reduce_sum((1 - diagonal) ** 2) + redundancy * others


def vicreg(
    first: tf.Tensor,
    second: tf.Tensor,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> tf.Tensor:
    """``invariance s(Z, Z') + variance (v(Z) + v(Z')) / 2 + covariance (c(Z) + c(Z'))``.

    Bardes et al., "VICReg", ICLR 2022, equation 6. As in the authors' code, s is also averaged over
    dimensions, and v(Z) + v(Z') is halved.

    Args:
        first, second: the views' embeddings Z and Z', ``[B, D]``.
        invariance, variance, covariance: the paper's lambda, mu and nu.

    Returns:
        A float32 scalar.
    """
    first, second = tf.cast(first, tf.float32), tf.cast(second, tf.float32)
    distance = tf.reduce_mean((first - second) ** 2)
    hinges = variance_hinge(first) + variance_hinge(second)
    covariances = covariance_penalty(first) + covariance_penalty(second)
    return invariance * distance + variance * hinges / 2 + covariance * covariances


def variance_hinge(embeddings: tf.Tensor) -> tf.Tensor:
    """``v(Z)``: how far the standard deviations fall short of 1, averaged over dimensions.

    VICReg, equations 1 and 2. A float32 scalar from 0 to 1.
    """
    centred = centre(embeddings)
    variances = tf.math.divide_no_nan(tf.reduce_sum(centred**2, axis=0), count(centred) - 1)
    return tf.reduce_mean(tf.nn.relu(1 - tf.sqrt(variances + _VICREG_EPSILON)))


def covariance_penalty(embeddings: tf.Tensor) -> tf.Tensor:
    """``c(Z)``: the sum of squared covariances between different dimensions, divided by D.

    VICReg, equations 3 and 4. D is the number of dimensions. A float32 scalar.
    """
    centred = centre(embeddings)
    products = tf.matmul(centred, centred, transpose_a=True)
    covariances = tf.math.divide_no_nan(products, count(centred) - 1)
    diagonal = tf.linalg.diag_part(covariances)
    others = tf.reduce_sum(covariances**2) - tf.reduce_sum(diagonal**2)
    return others / tf.cast(tf.shape(centred)[1], tf.float32)


def negative_cosine(prediction: tf.Tensor, projection: tf.Tensor) -> tf.Tensor:
    """``D(p, z) = -mean over the batch of cosine(p, stop_gradient(z))``.

    Chen & He, "Exploring simple Siamese representation learning", CVPR 2021, equation 1.

    Args:
        prediction, projection: p and z, ``[B, D]``.

    Returns:
        A scalar from -1 to 1.
    """
    cosines = normalised(prediction) * normalised(tf.stop_gradient(projection))
    return -tf.reduce_mean(tf.reduce_sum(cosines, axis=-1))


def standardized(embeddings: tf.Tensor) -> tf.Tensor:
    """Scale each dimension to mean 0 and variance 1 over the batch, float32 ``[B, D]``."""
    centred = centre(embeddings)
    variances = tf.reduce_mean(centred**2, axis=0)
    return centred * tf.math.rsqrt(variances + _BARLOW_EPSILON)


def centre(embeddings: tf.Tensor) -> tf.Tensor:
    """Subtract each dimension's mean over the batch, float32 ``[B, D]``."""
    embeddings = tf.cast(embeddings, tf.float32)
    return embeddings - tf.reduce_mean(embeddings, axis=0)


def count(embeddings: tf.Tensor) -> tf.Tensor:
    """The batch size B of ``[B, D]``, a float32 scalar."""
    return tf.cast(tf.shape(embeddings)[0], tf.float32)
