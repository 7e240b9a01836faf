"""The leading eigenpairs of a batch of Gram matrices, at a fraction of a full decomposition's cost.

The right singular vectors of a tall matrix are the eigenvectors of its Gram matrix, and of a wide
one they follow from the Gram matrix of its other side. Only the first few are needed, so larger
Gram matrices are compressed to a small core first: subspace iteration with Chebyshev filters (Zhou
& Saad 2007) and Rayleigh-Ritz projection, iterated until the residual certifies the result. Where
it cannot be certified (a long cluster of equal values, say), the full decomposition is computed.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

EXTRA = 6  # vectors carried beyond those asked for: they make the iteration converge faster
FIRST_PRODUCTS = 3  # with the Gram matrix, before vectors are told apart
LOOSE_ERROR = 2.5e-4  # of a vector that need not be exact
MAX_FILTERS = 6  # then the full decomposition is cheaper
RANGE = 300.0  # of eigenvalues in one filter: beyond it, rounding in float32 drowns the smaller
FULL_BELOW = 24  # rows of a Gram matrix that is decomposed at once: compressing costs more


class Eigenpairs(NamedTuple):
    """The largest eigenvalues of symmetric positive semi-definite matrices, in falling order.

    Attributes:
        values: ``[B, p]``, >= 0.
        vectors: ``[B, n, p]``, orthonormal columns.
    """

    values: tf.Tensor
    vectors: tf.Tensor


def transposed_product(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """``a^T b`` for batches ``[B, n, p]`` and ``[B, n, q]`` -> ``[B, p, q]``."""
    return tf.matmul(a, b, transpose_a=True)


def full_eigenpairs(gram: tf.Tensor) -> Eigenpairs:
    """All eigenpairs of ``gram [B, n, n]`` by `tf.linalg.eigh` (its SVD, two to three times faster
    than `tf.linalg.svd` finds it, as the matrix is symmetric and positive semi-definite)."""
    values, vectors = tf.linalg.eigh(gram)
    return Eigenpairs(tf.nn.relu(values[:, ::-1]), vectors[:, :, ::-1])


def leading_eigenpairs(gram: tf.Tensor, count: int, exact: int) -> Eigenpairs:
    """The first eigenpairs of a batch of Gram matrices.

    Args:
        gram: ``[B, n, n]``, symmetric, positive semi-definite and finite, float32 or float64;
            scaled so that its trace is about 1.
        count: how many pairs the caller wants.
        exact: how many of them to the precision of the type; the others within `LOOSE_ERROR`.

    Returns:
        Eigenpairs of at least ``min(count, n)`` columns; those beyond `count` are rough. All n, and
        all exact, where that is no more work.
    """
    size = gram.shape[-1]
    block = count + EXTRA
    if size <= max(FULL_BELOW, 2 * block):
        return full_eigenpairs(gram)
    found, certified = _subspace_iteration(gram, count, exact, block)
    return Eigenpairs(
        *tf.cond(certified, lambda: found, lambda: _first(full_eigenpairs(gram), block))
    )


def _first(pairs: Eigenpairs, count: int) -> Eigenpairs:
    return Eigenpairs(pairs.values[:, :count], pairs.vectors[:, :, :count])


def _subspace_iteration(
    gram: tf.Tensor, count: int, exact: int, block: int
) -> tuple[Eigenpairs, tf.Tensor]:
    """Chebyshev-filtered subspace iteration; returns the pairs and whether all are certified."""
    start = tf.random.stateless_normal(
        [gram.shape[-1], block], seed=[20180906, 1807], dtype=gram.dtype
    )
    columns = tf.einsum("bij,jk->bik", gram, start)
    for _ in range(FIRST_PRODUCTS - 1):
        columns = tf.matmul(gram, columns)
    # Of a matrix of low rank these are dependent: what the first pass leaves of them is rounding,
    # which the second makes orthogonal.
    pairs, residual = _rayleigh_ritz(gram, _orthonormal(columns))

    def unfinished(filters: tf.Tensor, pairs: Eigenpairs, residual: tf.Tensor) -> tf.Tensor:
        return (filters < MAX_FILTERS) & ~_certified(pairs, residual, count, exact)

    def improve(filters: tf.Tensor, pairs: Eigenpairs, residual: tf.Tensor):
        return filters + 1, *_rayleigh_ritz(gram, _chebyshev_filter(gram, pairs))

    _, pairs, residual = tf.while_loop(unfinished, improve, (tf.constant(0), pairs, residual))
    return pairs, _certified(pairs, residual, count, exact)


def _rayleigh_ritz(gram: tf.Tensor, block: tf.Tensor) -> tuple[Eigenpairs, tf.Tensor]:
    """The best approximate eigenpairs in the span of ``block [B, n, p]``, by `tf.linalg.svd` of the
    ``p x p`` core, and the norms ``[B, p]`` of their residuals ``G v - theta v``."""
    basis = _orthonormal(block)
    image = tf.matmul(gram, basis)
    _, rotation, _ = tf.linalg.svd(transposed_product(basis, image))
    vectors, images = tf.matmul(basis, rotation), tf.matmul(image, rotation)
    # The basis is orthonormal but for the shift in its factor; the Rayleigh quotient forgives that.
    length = tf.norm(vectors, axis=1, keepdims=True)
    vectors, images = (tf.math.divide_no_nan(tensor, length) for tensor in (vectors, images))
    values = tf.reduce_sum(vectors * images, axis=1, keepdims=True)
    residual = tf.norm(images - values * vectors, axis=1)
    return Eigenpairs(tf.nn.relu(values[:, 0]), vectors), residual


def _orthonormal(block: tf.Tensor) -> tf.Tensor:
    """Orthonormal columns with the span of ``block [B, n, p]`` (Cholesky QR). The small shift keeps
    the factor defined where columns are dependent or zero."""
    shift = 2 * block.shape[-1] * _epsilon(block.dtype)
    columns = tf.math.divide_no_nan(block, tf.norm(block, axis=1, keepdims=True))
    products = transposed_product(columns, columns)
    factor = tf.linalg.cholesky(products + shift * tf.eye(block.shape[-1], dtype=block.dtype))
    return tf.linalg.matrix_transpose(
        tf.linalg.triangular_solve(factor, tf.linalg.matrix_transpose(columns))
    )


def _chebyshev_filter(gram: tf.Tensor, pairs: Eigenpairs) -> tf.Tensor:
    """``T_2(2 G / a - 1) V``: damps all eigenvectors with values below ``a``, the smallest one that
    the block has found, and lets those above grow as fast as any quadratic polynomial can."""
    values = pairs.values[:, None, :]
    bound = tf.maximum(values[:, :, -1:], values[:, :, :1] / RANGE)
    once = tf.math.divide_no_nan(2.0, bound) * tf.matmul(gram, pairs.vectors) - pairs.vectors
    return tf.math.divide_no_nan(4.0, bound) * tf.matmul(gram, once) - 2 * once - pairs.vectors


def _certified(pairs: Eigenpairs, residual: tf.Tensor, count: int, exact: int) -> tf.Tensor:
    """Whether in every sample the first `exact` vectors are as exact as the precision allows, and
    those up to `count` within `LOOSE_ERROR`.

    The residual over the distance to the rest of the spectrum bounds a vector's error (Davis &
    Kahan 1970); a residual at rounding level cannot be improved. A small eigenvalue above rounding
    level is not certified at all: forming the Gram matrix has cost it too many digits.
    """
    epsilon = _epsilon(pairs.values.dtype)
    values, largest = pairs.values[:, :count], pairs.values[:, :1]
    distance = values - pairs.values[:, -1:]
    vectors = pairs.vectors[:, :, :count]
    overlap = transposed_product(vectors, vectors) - tf.eye(count, dtype=values.dtype)
    orthogonal = tf.abs(overlap) <= 1e3 * epsilon
    allowed = [30 * epsilon] * exact + [LOOSE_ERROR] * (count - exact)
    allowed = tf.constant(allowed, values.dtype) * distance
    converged = residual[:, :count] <= tf.maximum(allowed, 6 * epsilon * largest)
    inexact = (values < 2500 * epsilon * largest) & (values > 20 * epsilon * largest)
    return tf.reduce_all(converged & ~inexact) & tf.reduce_all(orthogonal)


def _epsilon(dtype: tf.DType) -> float:
    return 2.0**-23 if dtype == tf.float32 else 2.0**-52
