"""Truncated right singular vectors of a batch of matrices, and their gradient.

For ``X = U S V^T`` the vectors ``v_i`` say which mixtures of channels a feature map is made of (Lee,
Kim, Song, ECCV 2018, section 3.1). Three choices are the caller's:

- ``solver``: ``"svd"`` decomposes the whole matrix by `tf.linalg.svd`; ``"auto"`` compresses it to a
  small core first (see `op_util.decomposition`).
- ``orientation``: a singular vector's sign is arbitrary. ``"canonical"`` gives each the sign that
  makes its mean response, the sum over rows of ``X v``, non-negative (after Bro, Acar & Kolda, 2008),
  which every solver reproduces; ``"as_computed"`` keeps the routine's own sign, as published.
- ``gradient``: ``"exact"`` is the derivative of the vectors (Ionescu et al., ICCV 2015), guarded at
  ties; ``"published"`` is what the original code computes: nothing for tall matrices, and for wide
  ones only the part of the derivative in which the left vectors stand still.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from op_util.decomposition import Eigenpairs, full_eigenpairs, leading_eigenpairs

SOLVERS = ("auto", "svd")
ORIENTATIONS = ("canonical", "as_computed")

PUBLISHED_VECTORS = 5  # the original code's gradient knows no more


class Decomposition(NamedTuple):
    """The leading singular triplets of ``X [B, N, D]``, computed without a gradient.

    Attributes:
        matrices: the ``X`` that was decomposed, in at least float32.
        gram: Gram matrix ``[B, n, n]`` of its smaller side, ``n = min(N, D)``.
        values: singular values ``[B, k]``, in falling order; k is what was asked for, or more.
        left, right: singular vectors ``[B, N, k]`` and ``[B, D, k]``; zero where the value is zero.
        good: ``[B]``, False where X or its decomposition is not finite; all else is 0 there.
        error: ``[B, k]``, about how far rounding may have turned each right vector (radians).
    """

    matrices: tf.Tensor
    gram: tf.Tensor
    values: tf.Tensor
    left: tf.Tensor
    right: tf.Tensor
    good: tf.Tensor
    error: tf.Tensor


def right_singular_vectors(
    matrices: tf.Tensor,
    count: int,
    *,
    gradient: str = "exact",
    orientation: str = "canonical",
    solver: str = "auto",
) -> tuple[tf.Tensor, tf.Tensor]:
    """The first right singular vectors of each matrix, differentiable.

    Args:
        matrices: ``[B, N, D]``, any floating type; computed in at least float32.
        count: how many; no more than ``min(N, D)`` are returned.

    Returns:
        Singular values ``[B, k]`` (no gradient) and vectors ``[B, D, k]``, all finite: a matrix with
        a non-finite entry has zeros, as has a vector whose singular value is zero.
    """
    found = decompose([matrices], [count], orientation=orientation, solver=solver)[0]
    count = min(count, *matrices.shape[1:])
    index = tf.tile(tf.range(count)[None, :], [tf.shape(found.values)[0], 1])
    return found.values[:, :count], select(matrices, found, index, gradient=gradient)


def decompose(
    matrices: list[tf.Tensor], counts: list[int], *, orientation: str, solver: str
) -> list[Decomposition]:
    """Decompose several batches of matrices; those with Gram matrices of one size share one call.

    Args:
        matrices: tensors ``[B, N_i, D_i]``, each of its own static shape but for the batch.
        counts: how many singular vectors of each.
    """
    matrices = [at_least_float32(tf.stop_gradient(matrix)) for matrix in matrices]
    if solver == "svd":
        found = [_by_svd(matrix, count) for matrix, count in zip(matrices, counts, strict=True)]
    elif solver == "auto":
        found = _by_gram(matrices, counts)
    else:
        raise ValueError(f"solver is {solver!r}; expected one of {', '.join(SOLVERS)}")
    if orientation == "canonical":
        return [_canonical(one) for one in found]
    if orientation != "as_computed":
        raise ValueError(f"orientation is {orientation!r}; expected {' or '.join(ORIENTATIONS)}")
    return found


def select(
    matrices: tf.Tensor, found: Decomposition, index: tf.Tensor, *, gradient: str
) -> tf.Tensor:
    """Right singular vectors ``index [B, m]`` of `found`, ``[B, D, m]``, with their gradient.

    The gradient is solved for only here, so candidates that are not chosen cost nothing.
    """
    backward = GRADIENTS_BY_NAME[gradient]

    @tf.custom_gradient
    def chosen(matrices: tf.Tensor):
        vectors = columns(found.right, index)
        return vectors, lambda upstream: tf.cast(backward(found, index, upstream), matrices.dtype)

    return chosen(matrices)


def exact_gradient(found: Decomposition, index: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """The derivative of the chosen vectors, by implicit differentiation of ``X^T X v = s^2 v``.

    With ``w_i = (s_i^2 I - X^T X)^+ g_i`` the gradient is ``sum_i (X v_i) w_i^T + (X w_i) v_i^T``,
    the same as the closed form of Ionescu et al. with all singular vectors. The pseudo-inverse is
    applied on the smaller side of X, by a symmetric solve that needs the chosen vectors only.

    Args:
        found: of ``X [B, N, D]``.
        index: ``[B, m]``, which vectors were chosen.
        upstream: gradient ``g [B, D, m]`` at them.

    Returns:
        ``[B, N, D]``.
    """
    x = found.matrices
    left, right = columns(found.left, index), columns(found.right, index)
    sigma = tf.gather(found.values, index, batch_dims=1)[:, None, :]
    across = upstream - right * tf.reduce_sum(right * upstream, axis=1, keepdims=True)
    if x.shape[1] >= x.shape[2]:
        w = _resolvent(found, found.right, index, across)
        image = tf.matmul(x, w)
    else:
        pulled = tf.matmul(x, across)
        y = _resolvent(found, found.left, index, pulled)
        inverse = tf.math.divide_no_nan(tf.ones_like(sigma), sigma**2)
        w = inverse * (across + tf.matmul(x, y, transpose_a=True))
        image = inverse * (pulled + tf.matmul(found.gram, y))
    outer = tf.concat([sigma * left, image], axis=2), tf.concat([w, right], axis=2)
    # Where the sample is dropped or the vector has no singular value, nothing is to be learned.
    alive = found.good[:, None, None] & (tf.tile(sigma, [1, 1, 2]) > 0)
    return tf.matmul(*(tf.where(alive, factor, 0) for factor in outer), transpose_b=True)


def _resolvent(
    found: Decomposition, vectors: tf.Tensor, index: tf.Tensor, b: tf.Tensor
) -> tf.Tensor:
    """``(s_i^2 I - G)^+ b_i`` for the chosen i, where ``G [B, n, n]`` is the Gram matrix with
    eigenvectors ``vectors [B, n, k]`` (the first k of n) and ``b`` is ``[B, n, m]``.

    Along the k known vectors the inverse is ``1 / (s_i^2 - s_j^2)``, 0 at a tie; on the others the
    matrix is definite, as all their values are smaller.
    """
    values = found.values[:, :, None]  # [B, k, 1]
    chosen = tf.gather(found.values, index, batch_dims=1)[:, None, :]  # [B, 1, m]
    tie = _tie(b.dtype) * values[:, :1]
    # Factored, as the squares' difference would lose the digits of small values.
    inverse = tf.where(
        tf.abs(chosen - values) > tie,
        tf.math.divide_no_nan(tf.ones_like(chosen), (chosen - values) * (chosen + values)),
        0,
    )
    along = tf.matmul(vectors, b, transpose_a=True)  # [B, k, m]
    known = tf.matmul(vectors, inverse * along)
    rest = b - tf.matmul(vectors, along)
    if vectors.shape[2] == vectors.shape[1]:  # all are known: what is left has eigenvalue 0
        return known + tf.math.divide_no_nan(rest, chosen**2)
    return known + _solve_on_complement(found, vectors, chosen**2, rest)


def _solve_on_complement(
    found: Decomposition, vectors: tf.Tensor, shift: tf.Tensor, b: tf.Tensor
) -> tf.Tensor:
    """Solve ``(shift_i I - G) z_i = b_i`` for ``b_i`` orthogonal to the known `vectors`, by conjugate
    gradients: every value of G there is below every shift. ``shift [B, 1, m]``, ``b [B, n, m]``.

    Nothing can fail in it: at a tie with an unknown vector, or where rounding makes the matrix
    indefinite, the directions concerned are left out.
    """
    gram = found.gram
    smallest = _tie(b.dtype) * found.values[:, :1, None] ** 2

    def project(z: tf.Tensor) -> tf.Tensor:
        return z - tf.matmul(vectors, tf.matmul(vectors, z, transpose_a=True))

    def apply(z: tf.Tensor) -> tf.Tensor:
        return project(shift * z - tf.matmul(gram, z))

    def dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(a * b, axis=1, keepdims=True)

    target = dot(b, b) * (4 * _epsilon(b.dtype)) ** 2
    limit = 2 * b.shape[1] + 20

    def unfinished(step, z, residual, direction, norm):
        return (step < limit) & tf.reduce_any(norm > target)

    def improve(step, z, residual, direction, norm):
        image = apply(direction)
        curvature = dot(direction, image)
        active = (norm > target) & (curvature > smallest * dot(direction, direction))
        length = tf.where(active, tf.math.divide_no_nan(norm, curvature), 0)
        z, residual = z + length * direction, residual - length * image
        new_norm = tf.where(active, dot(residual, residual), 0)
        direction = residual + tf.math.divide_no_nan(new_norm, norm) * direction
        return step + 1, z, residual, direction, new_norm

    start = (tf.constant(0), tf.zeros_like(b), b, b, dot(b, b))
    return tf.while_loop(unfinished, improve, start)[1]


def published_gradient(found: Decomposition, index: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """What the published code computes in place of the derivative.

    Its matrix K of ``1 / (s_i^2 - s_j^2)`` is always zeroed by a guard meant for its infinite
    diagonal. What is left for wide matrices is ``sum_i u_i (g_i - v_i v_i^T g_i)^T / s_i`` over the
    first five vectors; for tall ones nothing. It also scales by ``B / (good + 1e-3)``.

    Args and returns as `exact_gradient`.
    """
    x = found.matrices
    if x.shape[1] >= x.shape[2]:
        return tf.zeros_like(x)
    left, right = columns(found.left, index), columns(found.right, index)
    sigma = tf.gather(found.values, index, batch_dims=1)[:, None, :]
    upstream = tf.where(index[:, None, :] < PUBLISHED_VECTORS, upstream, 0)
    across = upstream - right * tf.reduce_sum(right * upstream, axis=1, keepdims=True)
    across = tf.where(found.good[:, None, None], tf.math.divide_no_nan(across, sigma), 0)
    good = tf.reduce_sum(tf.cast(found.good, x.dtype))
    scale = tf.cast(tf.shape(x)[0], x.dtype) / (good + 1e-3)
    return scale * tf.matmul(left, across, transpose_b=True)


GRADIENTS_BY_NAME = {"exact": exact_gradient, "published": published_gradient}
GRADIENTS = tuple(GRADIENTS_BY_NAME)


def _by_svd(x: tf.Tensor, count: int) -> Decomposition:
    """All vectors by `tf.linalg.svd`; the gradient then needs no further solve, so all are kept."""
    del count
    good = tf.reduce_all(tf.math.is_finite(x), axis=[1, 2])
    x = tf.where(good[:, None, None], x, 0)
    values, left, right = tf.linalg.svd(x)
    finite = tf.reduce_all(tf.math.is_finite(values), axis=1)
    finite &= tf.reduce_all(tf.math.is_finite(right), axis=[1, 2])
    good &= finite
    present = values > _null(x) * values[:, :1]
    error = _turned(values, values[:, :1])
    return _zeroed(Decomposition(x, _gram(x), values, left, right, good, error), present)


def _by_gram(matrices: list[tf.Tensor], counts: list[int]) -> list[Decomposition]:
    """Leading vectors from the Gram matrices; those of one size are solved for together."""
    grams = [_gram(x) for x in matrices]
    traces = [tf.linalg.trace(gram) for gram in grams]
    good = [tf.math.is_finite(trace) for trace in traces]
    scaled = [
        tf.where(fine[:, None, None], tf.math.divide_no_nan(gram, trace[:, None, None]), 0)
        for gram, trace, fine in zip(grams, traces, good, strict=True)
    ]
    found: list[Decomposition | None] = [None] * len(matrices)
    for size in {gram.shape[-1] for gram in grams}:
        group = [i for i, gram in enumerate(grams) if gram.shape[-1] == size]
        pairs = leading_eigenpairs(
            tf.concat([scaled[i] for i in group], axis=0), max(counts[i] for i in group)
        )
        batches = [tf.shape(scaled[i])[0] for i in group]
        parts = zip(group, *(tf.split(part, batches) for part in pairs), strict=True)
        for i, values, vectors in parts:
            found[i] = _from_eigenpairs(
                matrices[i], grams[i], traces[i], good[i], Eigenpairs(values, vectors), counts[i]
            )
    return found


def _from_eigenpairs(
    x: tf.Tensor,
    gram: tf.Tensor,
    trace: tf.Tensor,
    good: tf.Tensor,
    pairs: Eigenpairs,
    count: int,
) -> Decomposition:
    """Singular triplets from the eigenpairs of ``gram / trace``."""
    size = gram.shape[-1]
    kept = size if pairs.values.shape[1] == size else count
    vectors = pairs.vectors[:, :, :kept]
    scale = tf.where(good, trace, 0)[:, None]
    values = tf.sqrt(pairs.values[:, :kept] * scale)
    image = tf.matmul(x, vectors, transpose_a=x.shape[1] < x.shape[2])
    other = tf.math.divide_no_nan(image, values[:, None, :])
    left, right = (other, vectors) if x.shape[1] >= x.shape[2] else (vectors, other)
    present = pairs.values[:, :kept] > _null(gram) * pairs.values[:, :1]
    error = _turned(pairs.values, pairs.values[:, :1])[:, :kept]
    if x.shape[1] < x.shape[2]:  # an error of u along u_1 is magnified in v = X^T u / s
        error *= tf.math.divide_no_nan(values[:, :1], values)
    return _zeroed(Decomposition(x, gram, values, left, right, good, error), present)


def _turned(values: tf.Tensor, largest: tf.Tensor) -> tf.Tensor:
    """How far rounding turns eigen- or singular vectors: its size, relative to the `largest` value,
    over the distance to the nearest of ``values [B, k]``; one where two coincide."""
    gap = tf.abs(values[:, :, None] - values[:, None, :])
    gap += tf.eye(values.shape[1], dtype=gap.dtype) * largest[:, :, None]
    rounding = 2 * _epsilon(values.dtype) * largest
    return tf.minimum(tf.math.divide_no_nan(rounding, tf.reduce_min(gap, axis=2)), 1)


def _zeroed(found: Decomposition, present: tf.Tensor) -> Decomposition:
    """`found` with zeros where a sample is not good or a singular value is not ``present [B, k]``."""
    keep = present & found.good[:, None]
    return found._replace(
        values=tf.where(keep, found.values, 0),
        left=tf.where(keep[:, None, :], found.left, 0),
        right=tf.where(keep[:, None, :], found.right, 0),
        error=tf.where(keep, found.error, 0),
        gram=tf.where(found.good[:, None, None], found.gram, 0),
    )


def _canonical(found: Decomposition) -> Decomposition:
    """Both vectors of a pair flipped where the mean response ``sum(X v) = s sum(u)`` is negative."""
    sign = tf.where(tf.reduce_sum(found.left, axis=1, keepdims=True) < 0, -1, 1)
    sign = tf.cast(sign, found.left.dtype)
    return found._replace(left=found.left * sign, right=found.right * sign)


def _gram(x: tf.Tensor) -> tf.Tensor:
    """Gram matrix ``[B, n, n]`` of the smaller side of ``x [B, N, D]``."""
    tall = x.shape[1] >= x.shape[2]
    return tf.matmul(x, x, transpose_a=tall, transpose_b=not tall)


def columns(vectors: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Columns ``index [B, m]`` of ``vectors [B, n, k]``, by a product (faster than gathering)."""
    choice = tf.one_hot(index, vectors.shape[2], axis=1, dtype=vectors.dtype)
    return tf.matmul(vectors, choice)


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
    """`x`, widened where its type has fewer digits than float32."""
    return x if x.dtype in (tf.float32, tf.float64) else tf.cast(x, tf.float32)


def _epsilon(dtype: tf.DType) -> float:
    return 2.0**-23 if dtype == tf.float32 else 2.0**-52


def _tie(dtype: tf.DType) -> float:
    """Eigenvalues closer than this, relative to the largest, count as equal."""
    return 16 * _epsilon(dtype)


def _null(matrix: tf.Tensor) -> float:
    """Values below this, relative to the largest, count as zero: rounding makes as much."""
    return 4 * matrix.shape[-1] * _epsilon(matrix.dtype)
