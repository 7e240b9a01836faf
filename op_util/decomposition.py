"""The leading eigenpairs of a batch of Gram matrices, at a fraction of a full decomposition's cost.

The right singular vectors of a tall matrix are the eigenvectors of its Gram matrix, and of a wide
one they follow from the Gram matrix of its other side. Only the first few are needed, so larger
Gram matrices are compressed to a small core first: subspace iteration with Chebyshev filters (Zhou
& Saad 2007) and Rayleigh-Ritz projection, iterated until the residual certifies the result. Where
a sample cannot be certified (a long cluster of equal values, say), it is decomposed in full.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from op_util.graphs import made_once

EXTRA = 6  # vectors carried beyond those asked for: they make the iteration converge faster
FIRST_PRODUCTS = 3  # with the Gram matrix, before vectors are told apart
LOOSE_ERROR = 5e-5  # of a vector that need not be exact
MAX_FILTERS = 6  # then the full decomposition is cheaper
FEW = 3  # a batch over this: samples that are filtered apart from the others
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
    """All eigenpairs of ``gram [B, n, n]``. That is its SVD too, as the matrix is symmetric and
    positive semi-definite; `tf.linalg.eigh` finds it in half of `tf.linalg.svd`'s time or less."""
    values, vectors = tf.linalg.eigh(-gram)  # in falling order of G's, as eigh's is rising
    pairs = Eigenpairs(-values, vectors)
    if gram.dtype == tf.float64:
        # What calls for float64 needs all of its digits, and XLA's eigh stops at 1e-6.
        pairs = _refined(gram, _refined(gram, pairs))
    return pairs._replace(values=tf.nn.relu(pairs.values))


def _refined(gram: tf.Tensor, pairs: Eigenpairs) -> Eigenpairs:
    """Eigenpairs with about twice as many right digits, as long as the type has them (Ogita &
    Aishima 2018, algorithm 1). Vectors whose values cannot be told apart stay among themselves as
    they are."""
    vectors = pairs.vectors
    lack = tf.eye(vectors.shape[2], dtype=gram.dtype) - transposed_product(vectors, vectors)
    image = transposed_product(vectors, tf.matmul(gram, vectors))
    values = tf.linalg.diag_part(image) / (1 - tf.linalg.diag_part(lack))
    apart = image - tf.linalg.diag(values)
    blur = 2 * (_length(apart) + _length(image) * _length(lack))
    gap = values[:, None, :] - values[:, :, None]
    turn = tf.math.divide_no_nan(image + values[:, None, :] * lack, gap)
    turn = tf.where(tf.abs(gap) > blur, turn, lack / 2)
    return Eigenpairs(values, vectors + tf.matmul(vectors, turn))


def _length(matrices: tf.Tensor) -> tf.Tensor:
    return tf.norm(matrices, axis=[1, 2], keepdims=True)


def leading_eigenpairs(gram: tf.Tensor, count: int, exact: int | None = None) -> Eigenpairs:
    """The first eigenpairs of a batch of Gram matrices.

    Args:
        gram: ``[B, n, n]``, symmetric, positive semi-definite and finite, float32 or float64;
            scaled so that its trace is about 1.
        count: how many pairs the caller wants.
        exact: how many of them to the precision of the type, None: all; the others within
            `LOOSE_ERROR`.

    Returns:
        Eigenpairs of at least ``min(count, n)`` columns; those beyond `count` are rough. All n, and
        all exact, where that is no more work.
    """
    return _leading_eigenpairs([gram], count, exact or count)


@made_once
def _leading_eigenpairs(grams: list[tf.Tensor], count: int, exact: int) -> Eigenpairs:
    (gram,) = grams
    size = gram.shape[-1]
    block = count + EXTRA
    if size <= max(FULL_BELOW, 2 * block):
        return full_eigenpairs(gram)
    found, certified = _subspace_iteration(gram, count, exact, block)

    def completed() -> Eigenpairs:
        values, vectors = full_eigenpairs(gram)
        return Eigenpairs(
            tf.where(certified[:, None], found.values, values[:, :block]),
            tf.where(certified[:, None, None], found.vectors, vectors[:, :, :block]),
        )

    return Eigenpairs(*tf.cond(tf.reduce_all(certified), lambda: found, completed))


def _subspace_iteration(
    gram: tf.Tensor, count: int, exact: int, block: int
) -> tuple[Eigenpairs, tf.Tensor]:
    """Chebyshev-filtered subspace iteration; returns the pairs and ``[B]``, which are certified.

    Where few samples are not there yet, further filters leave the others out.
    """
    start = tf.random.stateless_normal(
        [gram.shape[-1], block], seed=[20180906, 1807], dtype=gram.dtype
    )
    columns = tf.einsum("bij,jk->bik", gram, start)
    for _ in range(FIRST_PRODUCTS - 1):
        columns = tf.matmul(gram, columns)
    # Of a matrix of low rank these are dependent: what the first pass leaves of them is rounding,
    # which the second, in the projection, makes orthogonal.
    pairs, _ = _rayleigh_ritz(gram, _orthonormal(columns), count)
    # Next to no sample can do without this filter.
    pairs, residual = _rayleigh_ritz(gram, _chebyshev_filter(gram, pairs), count)

    def unfinished(filters: tf.Tensor, pairs: Eigenpairs, residual: tf.Tensor) -> tf.Tensor:
        return (filters < MAX_FILTERS) & ~tf.reduce_all(_converged(pairs, residual, exact))

    def filtered(gram: tf.Tensor, pairs: Eigenpairs) -> tuple[tf.Tensor, ...]:
        better, residual = _rayleigh_ritz(gram, _chebyshev_filter(gram, pairs), count)
        return *better, residual

    def improve(filters: tf.Tensor, pairs: Eigenpairs, residual: tf.Tensor):
        pending = ~_converged(pairs, residual, exact)
        few = tf.shape(gram)[0] // FEW  # a number that XLA knows, which the pending's is not

        def of_some() -> tuple[tf.Tensor, ...]:
            rows = tf.math.top_k(tf.cast(pending, tf.int32), few).indices
            some = Eigenpairs(*(tf.gather(part, rows) for part in pairs))
            changed = filtered(tf.gather(gram, rows), some)
            return tuple(
                tf.tensor_scatter_nd_update(old, rows[:, None], new)
                for old, new in zip((*pairs, residual), changed, strict=True)
            )

        *pairs, residual = tf.cond(
            tf.math.count_nonzero(pending, dtype=tf.int32) <= few,
            of_some,
            lambda: filtered(gram, pairs),
        )
        return filters + 1, Eigenpairs(*pairs), residual

    _, pairs, residual = tf.while_loop(unfinished, improve, (tf.constant(1), pairs, residual))
    length = tf.norm(pairs.vectors, axis=1, keepdims=True)
    pairs = pairs._replace(vectors=tf.math.divide_no_nan(pairs.vectors, length))
    return pairs, _converged(pairs, residual, exact) & _sound(pairs, count)


def _rayleigh_ritz(
    gram: tf.Tensor, block: tf.Tensor, count: int
) -> tuple[Eigenpairs, tf.Tensor]:
    """The best approximate eigenpairs in the span of ``block [B, n, p]``, by decomposing the
    ``p x p`` core, and the norms ``[B, count]`` of the residuals ``G v - theta v`` of the first."""
    basis = _orthonormal(block)
    image = tf.matmul(gram, basis)
    values, rotation = full_eigenpairs(transposed_product(basis, image))
    pairs = Eigenpairs(values, tf.matmul(basis, rotation))
    # The basis is orthonormal but for the shift in its factor; Rayleigh quotients forgive that.
    vectors, images = pairs.vectors[:, :, :count], tf.matmul(image, rotation[:, :, :count])
    square = tf.reduce_sum(vectors**2, axis=1, keepdims=True)
    quotient = tf.math.divide_no_nan(
        tf.reduce_sum(vectors * images, axis=1, keepdims=True), square
    )
    residual = tf.norm(images - quotient * vectors, axis=1)
    pairs = pairs._replace(values=tf.concat([quotient[:, 0], values[:, count:]], axis=1))
    return pairs, tf.math.divide_no_nan(residual, tf.sqrt(square[:, 0]))


def _orthonormal(block: tf.Tensor) -> tf.Tensor:
    """Orthonormal columns with the span of ``block [B, n, p]`` (Cholesky QR), to about the
    shift that keeps the factor defined, whatever rounding does, where columns are dependent."""
    identity = tf.eye(block.shape[-1], dtype=block.dtype)
    shift = 8 * block.shape[-1] * epsilon_of(block.dtype)
    columns = tf.math.divide_no_nan(block, tf.norm(block, axis=1, keepdims=True))
    factor = tf.linalg.cholesky(transposed_product(columns, columns) + shift * identity)
    inverse = tf.linalg.triangular_solve(factor, tf.broadcast_to(identity, tf.shape(factor)))
    return tf.matmul(columns, inverse, transpose_b=True)


def _chebyshev_filter(gram: tf.Tensor, pairs: Eigenpairs) -> tf.Tensor:
    """``T_2(2 G / a - 1) V``: damps all eigenvectors with values below ``a``, the smallest one that
    the block has found, and lets those above grow as fast as any quadratic polynomial can."""
    values = pairs.values[:, None, :]
    bound = tf.maximum(values[:, :, -1:], values[:, :, :1] / RANGE)
    once = tf.math.divide_no_nan(2.0, bound) * tf.matmul(gram, pairs.vectors) - pairs.vectors
    return tf.math.divide_no_nan(4.0, bound) * tf.matmul(gram, once) - 2 * once - pairs.vectors


def _converged(pairs: Eigenpairs, residual: tf.Tensor, exact: int) -> tf.Tensor:
    """``[B]``, whether the first `exact` vectors are as exact as the precision allows, and the
    others that have a ``residual [B, count]`` within `LOOSE_ERROR`.

    The residual over the distance to the rest of the spectrum bounds a vector's error (Davis &
    Kahan 1970); a residual at rounding level cannot be improved.
    """
    epsilon, count = epsilon_of(residual.dtype), residual.shape[1]
    distance = pairs.values[:, :count] - pairs.values[:, -1:]
    allowed = [30 * epsilon] * exact + [LOOSE_ERROR] * (count - exact)
    allowed = tf.constant(allowed[:count], residual.dtype) * distance
    rounding = 6 * epsilon * pairs.values[:, :1]
    return tf.reduce_all(residual <= tf.maximum(allowed, rounding), axis=1)


def _sound(pairs: Eigenpairs, count: int) -> tf.Tensor:
    """``[B]``, whether the first `count` vectors are orthonormal and large enough. A small
    eigenvalue above rounding level is not: forming the Gram matrix has cost it too many digits."""
    epsilon = epsilon_of(pairs.values.dtype)
    vectors, values = pairs.vectors[:, :, :count], pairs.values[:, :count]
    overlap = transposed_product(vectors, vectors) - tf.eye(count, dtype=values.dtype)
    relative = tf.math.divide_no_nan(values, pairs.values[:, :1])
    inexact = (relative < 2500 * epsilon) & (relative > 20 * epsilon)
    orthonormal = tf.reduce_all(tf.abs(overlap) <= 1e3 * epsilon, axis=[1, 2])
    return orthonormal & ~tf.reduce_any(inexact, axis=1)


def epsilon_of(dtype: tf.DType) -> float:
    """The distance from 1 to the next number of `dtype`, float32 or float64."""
    return 2.0**-23 if dtype == tf.float32 else 2.0**-52
