"""Losses between embeddings, and measures of their collapse.

Embeddings of several tasks have the shape ``[B, T, width]`` for B images and T tasks, and each has
length 1 (see `normalised`). Everything is computed in at least float32.
"""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf

from op_util.precision import at_least_float32, product

SHORTEST = 1e-12
"""Vectors with a squared length below this are treated as zero."""


def normalised(x: tf.Tensor) -> tf.Tensor:
    """Scale ``x [..., width]`` to length 1. Zero vectors become zero and get no gradient."""
    x = at_least_float32(x)
    squared = tf.reduce_sum(x * x, axis=-1, keepdims=True)
    is_long = squared > SHORTEST
    return tf.where(is_long, x * tf.math.rsqrt(tf.where(is_long, squared, 1)), 0)


def squared_distances(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """``||x_i - y_j||^2`` between the rows of x and y, ``[..., n, m]``.

    Args:
        x: ``[..., n, width]``.
        y: ``[..., m, width]``.
    """
    of_x, of_y = (tf.reduce_sum(rows * rows, axis=-1) for rows in (x, y))
    # In full precision: what is left where rows are nearly equal would be rounding.
    products = product(x, y, transpose_b=True)
    return tf.nn.relu(of_x[..., :, None] + of_y[..., None, :] - 2 * products)


def triplet_loss(embeddings: tf.Tensor, margin: float) -> tf.Tensor:
    """Metric-based regularization with triplets, over all ordered pairs of tasks a != b.

    The mean over a, b, i of ``max(0, ||e_a(i) - e_b(i)||^2 - ||e_a(i) - e_b(j)||^2 + margin)``.

    The anchor is task a's embedding of image i, the positive is task b's embedding of the same
    image, and the negative is task b's embedding of another image j. j is semi-hard (Schroff et
    al., FaceNet, 2015, section 3.2): the nearest image that is farther than the positive, or the
    farthest if there is none.

    Args:
        embeddings: ``[B, T, width]``, T at least 2.
        margin: a margin between squared distances, which are 0 to 4 for vectors of length 1.

    Returns:
        A scalar; 0 for a single image, which has no negative.
    """
    tasks = tf.unstack(at_least_float32(embeddings), axis=1)
    pairs = list(itertools.permutations(tasks, 2))
    anchors, others = (tf.stack(side) for side in zip(*pairs, strict=True))
    distances = squared_distances(anchors, others)  # [a != b, i, j]
    count = tf.shape(distances)[-1]
    is_own = tf.eye(count, dtype=tf.bool)
    positive = tf.linalg.diag_part(distances)
    infinity = tf.constant(float("inf"), distances.dtype)
    is_farther = (distances > positive[..., None]) & ~is_own
    nearest_farther = tf.reduce_min(tf.where(is_farther, distances, infinity), axis=-1)
    farthest = tf.reduce_max(tf.where(is_own, -infinity, distances), axis=-1)
    negative = tf.where(tf.reduce_any(is_farther, axis=-1), nearest_farther, farthest)
    violations = tf.nn.relu(positive - negative + margin)
    return tf.where(count > 1, tf.reduce_mean(violations), 0)


def relational_loss(embeddings: tf.Tensor) -> tf.Tensor:
    """Metric-based regularization with relations: all tasks should agree on distances of images.

    ``mean over tasks and pairs i != j of (D_t(i, j) - mean over tasks of D(i, j))^2``, with
    ``D_t(i, j) = ||e_t(i) - e_t(j)||`` divided by its mean over the batch's pairs (as in Park et
    al., Relational knowledge distillation, 2019, equation 4). No gradient passes through the mean
    over tasks.

    Args:
        embeddings: ``[B, T, width]``, T at least 2.

    Returns:
        A scalar; 0 for a single image, or if all embeddings coincide.
    """
    tasks = tf.transpose(at_least_float32(embeddings), [1, 0, 2])
    squared = squared_distances(tasks, tasks)  # [T, i, j]
    count = tf.shape(squared)[-1]
    lengths = tf.reduce_sum(tasks * tasks, axis=-1)
    # Smaller distances are rounding: the difference of two large numbers.
    rounding = 16 * np.finfo(squared.dtype.as_numpy_dtype).eps
    least = rounding * (lengths[:, :, None] + lengths[:, None, :])
    is_apart = (squared > least) & ~tf.eye(count, dtype=tf.bool)
    distances = tf.where(is_apart, tf.sqrt(tf.where(is_apart, squared, 1)), 0)
    pairs = tf.cast(count * (count - 1), distances.dtype)
    mean = tf.math.divide_no_nan(tf.reduce_sum(distances, axis=[1, 2], keepdims=True), pairs)
    relative = tf.math.divide_no_nan(distances, mean)
    common = tf.stop_gradient(tf.reduce_mean(relative, axis=0))
    total = tf.reduce_sum(tf.reduce_mean((relative - common) ** 2, axis=0))
    return tf.math.divide_no_nan(total, pairs)


def nt_xent(projections: tf.Tensor, temperature: float) -> tf.Tensor:
    """The normalised temperature-scaled cross-entropy of two views of each image.

    Chen et al., SimCLR, 2020, equation 1: the mean over all 2 B views i of ``-log(exp(s(i, i') /
    temperature) / sum over k != i of exp(s(i, k) / temperature))``. i' is the other view of the
    same image, k runs over all other views of all images, s is the cosine.

    Args:
        projections: ``[B, 2, width]``, normalised to length 1 first.
        temperature: above 0.

    Returns:
        A scalar.
    """
    first, second = tf.unstack(normalised(projections), axis=1)
    views = tf.concat([first, second], axis=0)
    cosines = tf.matmul(views, views, transpose_b=True) / temperature
    count = tf.shape(first)[0]
    infinity = tf.constant(float("inf"), cosines.dtype)
    others = tf.where(tf.eye(2 * count, dtype=tf.bool), -infinity, cosines)
    partner = (tf.range(2 * count) + count) % (2 * count)
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=partner, logits=others)
    )


def finds_partner(projections: tf.Tensor) -> tf.Tensor:
    """Whether each image's first view has its own second view as nearest neighbour, by cosine.

    Args:
        projections: ``[B, 2, width]``.

    Returns:
        bool ``[B]``. The chance level is 1 in B.
    """
    first, second = tf.unstack(normalised(projections), axis=1)
    nearest = tf.argmax(tf.matmul(first, second, transpose_b=True), axis=1)
    return nearest == tf.range(tf.size(nearest, tf.int64), dtype=tf.int64)


def deviation(embeddings: tf.Tensor) -> tf.Tensor:
    """The standard deviation over rows, averaged over dimensions: ``[...]`` of ``[..., n, width]``.

    It is 0 if all rows are equal, and at most ``1 / sqrt(width)`` for rows of length 1.
    """
    return tf.reduce_mean(tf.math.reduce_std(at_least_float32(embeddings), axis=-2), axis=-1)


def effective_rank(embeddings: tf.Tensor) -> tf.Tensor:
    """How many dimensions the rows fill (Roy & Vetterli, The effective rank, 2007).

    ``exp`` of the entropy of the centred rows' singular values, which are divided by their sum.

    Args:
        embeddings: ``[..., n, width]``.

    Returns:
        float64 ``[...]``, from 1 to ``min(n - 1, width)``; 0 if all rows are equal.
    """
    # In float32, rounding would add many small singular values and raise the entropy.
    rows = tf.cast(embeddings, tf.float64)
    rows -= tf.reduce_mean(rows, axis=-2, keepdims=True)
    values = tf.linalg.svd(rows, compute_uv=False)
    total = tf.reduce_sum(values, axis=-1, keepdims=True)
    share = tf.math.divide_no_nan(values, total)
    entropy = -tf.reduce_sum(tf.math.xlogy(share, share), axis=-1)
    is_spread = total[..., 0] > 1e-9 * tf.sqrt(tf.cast(tf.shape(rows)[-2], tf.float64))
    return tf.where(is_spread, tf.exp(entropy), 0)
