"""The leading eigenpairs of a batch of Gram matrices, at a fraction of a full decomposition's cost.

The right singular vectors of a tall matrix are the eigenvectors of its Gram matrix; those of a wide
matrix follow from the Gram matrix of its other side. Only the first few are needed, so larger Gram
matrices are first compressed to a small core: subspace iteration with Chebyshev filters (Zhou &
Saad 2007) and Rayleigh-Ritz projection, until the residual certifies the result. A sample that
cannot be certified (for example, one with a long cluster of equal values) is decomposed in full.

The fastest way depends on the device, see `routine_for` and `Plan`: on a GPU, only one routine
decomposes small matrices in one batched call, and every branch waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import tensorflow as tf

from op_util.devices import Device, device_of
from op_util.graphs import made_once
from op_util.precision import epsilon_of, product

BATCHED_SVD = 32  # rows up to which a GPU decomposes a batch of matrices in one call
FIRST_PRODUCTS = 3  # products with the Gram matrix before the first projection
LOOSE_ERROR = 5e-5  # the allowed error of a vector that need not be exact
RANGE = 300.0  # ratio of eigenvalues in one filter; beyond it, float32 rounding hides small ones


class Plan(NamedTuple):
    """How Gram matrices are compressed on a kind of device.

    Attributes:
        full_below: up to this many rows, a Gram matrix is decomposed in full, because compressing
            it would cost more.
        extra: how many vectors to iterate beyond those requested; they speed up convergence.
        filters: filter steps applied to every sample.
        most_filters: maximum number of filter steps for samples that are not certified yet; after
            that, the full decomposition is cheaper. If it equals `filters`, there is no loop.
    """

    full_below: int
    extra: int
    filters: int
    most_filters: int


PLANS: dict[Device, Plan] = {
    "CPU": Plan(full_below=24, extra=6, filters=1, most_filters=6),
    "XLA": Plan(full_below=24, extra=6, filters=1, most_filters=6),
    # A loop would wait for the host in each iteration, and extra columns cost next to nothing.
    "GPU": Plan(full_below=BATCHED_SVD, extra=12, filters=2, most_filters=2),
}


class Eigenpairs(NamedTuple):
    """The largest eigenvalues of symmetric positive semi-definite matrices, in descending order.

    Attributes:
        values: ``[B, p]``, >= 0.
        vectors: ``[B, n, p]``, orthonormal columns.
    """

    values: tf.Tensor
    vectors: tf.Tensor


def transposed_product(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """``a^T b`` for batches ``[B, n, p]`` and ``[B, n, q]`` -> ``[B, p, q]``."""
    return product(a, b, transpose_a=True)


def diagonal(matrices: tf.Tensor) -> tf.Tensor:
    """The diagonals ``[B, n]`` of ``[B, n, n]``.

    On a GPU, `tf.linalg.diag_part` waits for the host, where its padding value is stored.
    """
    size = matrices.shape[-1]
    return tf.reshape(matrices, [-1, size * size])[:, :: size + 1]


def routine_for(device: Device, size: int, dtype: tf.DType) -> Literal["eigh", "svd"]:
    """Choose the TensorFlow routine for a batch of symmetric positive semi-definite matrices.

    For such matrices the singular value decomposition is also an eigendecomposition.

    ``"svd"`` on a GPU for matrices of up to 32 rows: there `tf.linalg.svd` is one batched call
    (``gesvdjBatched``), while `tf.linalg.eigh` calls the solver for one matrix after another
    (TensorFlow 2.21). For 512 matrices of 16 rows, cuSOLVER on an H200 takes 0.4 ms for the
    batched call and 57 ms for the loop. ``"eigh"`` otherwise: for larger matrices both are loops on
    a GPU, on a CPU `eigh` takes half of `svd`'s time or less, and under XLA it is a batched
    Jacobi iteration.

    Args:
        size: rows and columns of each matrix.
        dtype: float32 or float64.

    Raises:
        ValueError: neither routine has kernels for `dtype`.
    """
    if dtype not in (tf.float32, tf.float64):
        raise ValueError(f"matrices to decompose are {dtype.name}; expected float32 or float64")
    return "svd" if device == "GPU" and size <= BATCHED_SVD else "eigh"


def full_eigenpairs(gram: tf.Tensor, device: Device | None = None) -> Eigenpairs:
    """All eigenpairs of ``gram [B, n, n]``, symmetric and positive semi-definite.

    Args:
        device: the device to choose the routine for, see `routine_for`; None means that of `gram`.
    """
    routine = routine_for(device or device_of(gram), gram.shape[-1], gram.dtype)
    if routine == "svd":
        values, vectors, _ = tf.linalg.svd(gram)
    else:
        values, vectors = tf.linalg.eigh(-gram)  # eigh sorts ascending; negated, it is descending
        values = -values
    # In float32, cuSOLVER's Jacobi rotations leave vectors orthogonal only to 1e-5. Callers in
    # float64 need all of its digits, but XLA's eigh stops at 1e-6.
    times = 2 if gram.dtype == tf.float64 else int(routine == "svd")
    if times:
        values, vectors = _refined(gram, vectors, times)
    return Eigenpairs(tf.nn.relu(values), vectors)


def _refined(gram: tf.Tensor, vectors: tf.Tensor, times: int) -> Eigenpairs:
    """Refine eigenpairs `times` times (after Ogita & Aishima 2018, algorithm 1).

    Each refinement about doubles the number of correct digits, up to the precision of the type.
    Vectors with indistinguishable eigenvalues are not rotated among themselves.
    """
    vectors = _orthogonalized(vectors)
    for _ in range(times):
        image = transposed_product(vectors, product(gram, vectors))
        values = diagonal(image)
        off_diagonal = image * (1 - tf.eye(image.shape[-1], dtype=image.dtype))
        blur = tf.norm(off_diagonal, axis=[1, 2], keepdims=True)
        gap = values[:, None, :] - values[:, :, None]
        # No pair turns by more than 1/8, so that `_orthogonalized` can restore the lengths.
        turn = tf.where(tf.abs(gap) > 8 * blur, tf.math.divide_no_nan(image, gap), 0)
        vectors = _orthogonalized(vectors + product(vectors, turn))
    return Eigenpairs(values, vectors)


def _orthogonalized(vectors: tf.Tensor) -> tf.Tensor:
    """Improve nearly orthonormal columns by one Newton-Schulz step, which squares their error."""
    identity = tf.eye(vectors.shape[2], dtype=vectors.dtype)
    return product(vectors, 1.5 * identity - 0.5 * transposed_product(vectors, vectors))


def leading_eigenpairs(
    gram: tf.Tensor, count: int, exact: int | None = None, device: Device | None = None
) -> Eigenpairs:
    """The first eigenpairs of a batch of Gram matrices.

    Args:
        gram: ``[B, n, n]``, symmetric, positive semi-definite and finite, float32 or float64;
            scaled so that its trace is about 1.
        count: how many pairs the caller wants.
        exact: how many of them must be exact to the precision of the type; None means all. The
            others are within `LOOSE_ERROR`.
        device: the device to choose the `Plan` for; None means that of `gram`.

    Returns:
        At least ``min(count, n)`` eigenpairs; those beyond `count` are rough. All n pairs, all of
        them exact, if that is no more work.
    """
    return _leading_eigenpairs([gram], count, exact or count, device or device_of(gram))


@made_once
def _leading_eigenpairs(
    grams: list[tf.Tensor], count: int, exact: int, device: Device
) -> Eigenpairs:
    (gram,) = grams
    block = _block_size(gram.shape[-1], count, device)
    if block is None:
        return full_eigenpairs(gram, device)
    found, certified = _subspace_iteration(gram, count, exact, block, device)

    def completed() -> Eigenpairs:
        def in_full(gram: tf.Tensor) -> Eigenpairs:
            return Eigenpairs(*(part[..., :block] for part in full_eigenpairs(gram, device)))

        return Eigenpairs(*_for_some(~certified, in_full, [gram], found, device))

    return Eigenpairs(*tf.cond(tf.reduce_all(certified), lambda: found, completed))


def _block_size(size: int, count: int, device: Device) -> int | None:
    """How many vectors to iterate to find `count` pairs of Gram matrices with `size` rows.

    None if the full decomposition is cheaper.
    """
    plan = PLANS[device]
    block = count + plan.extra
    if device == "GPU":
        # The core must fit the batched routine, even at the price of fewer extra vectors.
        block = min(block, BATCHED_SVD)
        is_cheaper = size > plan.full_below and block - count >= PLANS["CPU"].extra
    else:
        is_cheaper = size > max(plan.full_below, 2 * block)
    return block if is_cheaper else None


def _for_some(
    which: tf.Tensor,
    function: Callable[..., Sequence[tf.Tensor]],
    inputs: Sequence[tf.Tensor],
    present: Sequence[tf.Tensor],
    device: Device,
) -> list[tf.Tensor]:
    """`function(*inputs)` for the samples where ``which [B]`` is true, `present` for the others.

    XLA has no tensors of data-dependent size, so there all samples are computed.
    """
    if device == "XLA":
        return [
            tf.where(tf.reshape(which, [-1] + [1] * (old.shape.rank - 1)), new, old)
            for new, old in zip(function(*inputs), present, strict=True)
        ]
    rows = tf.where(which)
    changed = function(*(tf.gather_nd(tensor, rows) for tensor in inputs))
    return [
        tf.tensor_scatter_nd_update(old, rows, new)
        for new, old in zip(changed, present, strict=True)
    ]


def _subspace_iteration(
    gram: tf.Tensor, count: int, exact: int, block: int, device: Device
) -> tuple[Eigenpairs, tf.Tensor]:
    """Chebyshev-filtered subspace iteration.

    Returns:
        The pairs, and bool ``[B]``, whether each sample is certified.
    """
    plan = PLANS[device]

    def improved(gram: tf.Tensor, values: tf.Tensor, vectors: tf.Tensor) -> tuple[tf.Tensor, ...]:
        filtered = _chebyshev_filter(gram, Eigenpairs(values, vectors))
        better, residual = _rayleigh_ritz(gram, filtered, count, device)
        return *better, residual

    def unfinished(filters: tf.Tensor, values: tf.Tensor, _: tf.Tensor, residual: tf.Tensor):
        return (filters < plan.most_filters) & ~tf.reduce_all(_converged(values, residual, exact))

    def improve_some(filters: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
        values, vectors, residual = state
        pending = ~_converged(values, residual, exact)
        return filters + 1, *_for_some(pending, improved, [gram, values, vectors], state, device)

    pairs, residual = _rayleigh_ritz(gram, _first_block(gram, block), count, device)
    state = (*pairs, residual)
    for _ in range(plan.filters):  # almost every sample needs the first
        state = improved(gram, *state[:2])
    if plan.filters < plan.most_filters:
        _, *state = tf.while_loop(unfinished, improve_some, (tf.constant(plan.filters), *state))
    values, vectors, residual = state
    length = tf.norm(vectors, axis=1, keepdims=True)
    pairs = Eigenpairs(values, tf.math.divide_no_nan(vectors, length))
    return pairs, _converged(values, residual, exact) & _sound(pairs, count)


def _first_block(gram: tf.Tensor, block: int) -> tf.Tensor:
    """``[B, n, block]``, orthonormal columns that lean towards the leading eigenvectors."""
    start = tf.random.stateless_normal(
        [gram.shape[-1], block], seed=[20180906, 1807], dtype=gram.dtype
    )
    rows = tf.reshape(gram, [-1, gram.shape[-1]])
    columns = tf.reshape(product(rows, start), [-1, gram.shape[-1], block])
    for _ in range(FIRST_PRODUCTS - 1):
        columns = product(gram, columns)
    # For a matrix of low rank these columns are dependent. The first pass reduces the dependent
    # part to rounding errors, and the second one, in the projection, makes these orthogonal.
    return _orthonormal(columns)


def _rayleigh_ritz(
    gram: tf.Tensor, block: tf.Tensor, count: int, device: Device
) -> tuple[Eigenpairs, tf.Tensor]:
    """The best approximate eigenpairs in the span of ``block [B, n, p]``, from the ``p x p`` core.

    Returns:
        The pairs, and the norms ``[B, count]`` of the first pairs' residuals ``G v - theta v``.
    """
    basis = _orthonormal(block)
    image = product(gram, basis)
    values, rotation = full_eigenpairs(transposed_product(basis, image), device)
    pairs = Eigenpairs(values, product(basis, rotation))
    # The shift makes the basis slightly non-orthonormal, which Rayleigh quotients tolerate.
    vectors, images = pairs.vectors[:, :, :count], product(image, rotation[:, :, :count])
    square = tf.reduce_sum(vectors**2, axis=1, keepdims=True)
    quotient = tf.math.divide_no_nan(
        tf.reduce_sum(vectors * images, axis=1, keepdims=True), square
    )
    residual = tf.norm(images - quotient * vectors, axis=1)
    pairs = pairs._replace(values=tf.concat([quotient[:, 0], values[:, count:]], axis=1))
    return pairs, tf.math.divide_no_nan(residual, tf.sqrt(square[:, 0]))


def _orthonormal(block: tf.Tensor) -> tf.Tensor:
    """Orthonormal columns with the span of ``block [B, n, p]`` (Cholesky QR).

    They are orthonormal up to the size of the shift, which keeps the Cholesky factor defined even
    if columns are dependent.
    """
    identity = tf.eye(block.shape[-1], dtype=block.dtype)
    shift = 8 * block.shape[-1] * epsilon_of(block.dtype)
    columns = tf.math.divide_no_nan(block, tf.norm(block, axis=1, keepdims=True))
    factor = tf.linalg.cholesky(transposed_product(columns, columns) + shift * identity)
    inverse = tf.linalg.triangular_solve(factor, tf.broadcast_to(identity, tf.shape(factor)))
    return product(columns, inverse, transpose_b=True)


def _chebyshev_filter(gram: tf.Tensor, pairs: Eigenpairs) -> tf.Tensor:
    """Apply the Chebyshev filter ``T_2(2 G / a - 1) V``, with a the smallest value of the block.

    It damps all eigenvectors with values below a and amplifies those above as fast as any quadratic
    polynomial can.
    """
    values = pairs.values[:, None, :]
    bound = tf.maximum(values[:, :, -1:], values[:, :, :1] / RANGE)
    once = tf.math.divide_no_nan(2.0, bound) * product(gram, pairs.vectors) - pairs.vectors
    return tf.math.divide_no_nan(4.0, bound) * product(gram, once) - 2 * once - pairs.vectors


def _converged(values: tf.Tensor, residual: tf.Tensor, exact: int) -> tf.Tensor:
    """Whether the pairs of each sample have converged, bool ``[B]``.

    The first `exact` vectors must be as exact as the precision allows, the others among the `count`
    with a ``residual [B, count]`` within `LOOSE_ERROR`. A vector's error is bounded by its residual
    divided by the distance to the rest of the spectrum (Davis & Kahan 1970). A residual at rounding
    level cannot be improved.
    """
    epsilon, count = epsilon_of(residual.dtype), residual.shape[1]
    distance = values[:, :count] - values[:, -1:]
    allowed = [30 * epsilon] * exact + [LOOSE_ERROR] * (count - exact)
    allowed = tf.constant(allowed[:count], residual.dtype) * distance
    rounding = 6 * epsilon * values[:, :1]
    return tf.reduce_all(residual <= tf.maximum(allowed, rounding), axis=1)


def _sound(pairs: Eigenpairs, count: int) -> tf.Tensor:
    """Whether the first `count` pairs of each sample are usable, bool ``[B]``.

    The vectors must be orthonormal. No eigenvalue may be small but above rounding level, because
    forming the Gram matrix has cost it too many digits.
    """
    epsilon = epsilon_of(pairs.values.dtype)
    vectors, values = pairs.vectors[:, :, :count], pairs.values[:, :count]
    overlap = transposed_product(vectors, vectors) - tf.eye(count, dtype=values.dtype)
    relative = tf.math.divide_no_nan(values, pairs.values[:, :1])
    inexact = (relative < 2500 * epsilon) & (relative > 20 * epsilon)
    orthonormal = tf.reduce_all(tf.abs(overlap) <= 1e3 * epsilon, axis=[1, 2])
    return orthonormal & ~tf.reduce_any(inexact, axis=1)
