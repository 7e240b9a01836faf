"""Truncated right singular vectors of a batch of matrices, and their gradient.

For ``X = U S V^T``, the vectors ``v_i`` are the mixtures of channels that a feature map consists of
(Lee, Kim, Song, ECCV 2018, section 3.1). The caller makes three choices:

- ``solver``: ``"svd"`` decomposes the whole matrix with `tf.linalg.svd`; ``"auto"`` compresses it
  to a small core first (see `op_util.decomposition`, also for the differences on a GPU).
- ``orientation``: a singular vector's sign is arbitrary. ``"canonical"`` chooses the sign that
  makes the mean response, the sum over rows of ``X v``, non-negative (after Bro, Acar & Kolda,
  2008), which every solver reproduces. ``"as_computed"`` keeps the routine's own sign, as
  published.
- ``gradient``: ``"exact"`` is the derivative of the vectors (Ionescu et al., ICCV 2015), guarded at
  ties. ``"published"`` is what the original code computes: zero for tall matrices, and for wide
  ones only the part of the derivative that keeps the left vectors fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from op_util.decomposition import (
    LOOSE_ERROR,
    Eigenpairs,
    diagonal,
    full_eigenpairs,
    leading_eigenpairs,
    transposed_product,
)
from op_util.devices import Device, device_of
from op_util.graphs import made_once
from op_util.precision import at_least_float32, epsilon_of, product

SOLVERS = ("auto", "svd")
ORIENTATIONS = ("canonical", "as_computed")
GRADIENTS = ("exact", "published")
TRUSTED_ERROR = 5e-4  # if a vector's error may exceed this, float64 replaces float32

SAFE_RANGE = (1e-12, 1e15)  # singular values in this range have squares that float32 can hold
PUBLISHED_VECTORS = 5  # how many vectors the original code's gradient covers
GPU_STEPS = 6  # steps of conjugate gradients; a loop would wait for the host in each step


class Decomposition(NamedTuple):
    """The leading singular triplets of ``X [B, N, D]``, computed without a gradient.

    Attributes:
        matrices: the decomposed ``X``, in at least float32.
        scale: ``[B, 1, 1]``, positive; `gram` and `spectrum` belong to ``X / scale``, which has a
            largest singular value of order 1.
        gram: Gram matrix ``[B, n, n]`` of the smaller side, ``n = min(N, D)``; None if the spectrum
            is complete.
        spectrum: the singular values of ``X / scale`` and the eigenvectors of its Gram matrix: at
            least the k leading pairs, up to all n. Those beyond k may be approximate.
        values: singular values ``[B, k]`` of X, in descending order; k as requested, at most n.
        left, right: singular vectors ``[B, N, k]`` and ``[B, D, k]``; zero if the value is zero.
        good: ``[B]``, False if X or its decomposition is not finite; then all else is 0.
        error: ``[B, k]``, roughly how far rounding may have turned each right vector (radians).
    """

    matrices: tf.Tensor
    scale: tf.Tensor
    gram: tf.Tensor | None
    spectrum: Eigenpairs
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
        count: how many vectors; at most ``min(N, D)`` are returned.
        gradient, orientation, solver: see the module's description.

    Returns:
        Singular values ``[B, k]`` (no gradient) and vectors ``[B, D, k]``, all finite. A matrix
        with a non-finite entry gives zeros, and so does a singular value of zero.
    """
    found = decompose([matrices], [count], orientation=orientation, solver=solver)[0]
    index = tf.tile(tf.range(found.values.shape[1])[None, :], [tf.shape(found.values)[0], 1])

    def pick(one: Decomposition) -> tuple[tf.Tensor, ...]:
        return index, one.right, one.values

    vectors, values = differentiable(
        matrices, [found], pick, gradient=gradient, solver=solver,
        trusted=_all_known(found) if orientation == "canonical" else None,
    )
    return values, vectors


def _all_known(found: Decomposition) -> tf.Tensor:
    return tf.reduce_all(found.error <= TRUSTED_ERROR)


def decompose(
    matrices: list[tf.Tensor],
    counts: list[int],
    *,
    orientation: str,
    solver: str,
    exact: list[int] | None = None,
) -> list[Decomposition]:
    """Decompose several batches of matrices. Gram matrices of the same size share one call.

    Args:
        matrices: tensors ``[B, N_i, D_i]`` with static N_i and D_i, which may differ.
        counts: how many singular vectors of each to find.
        orientation, solver: see the module's description.
        exact: how many of them must be exact; the others may be off by their `error`. None means
            all.

    Raises:
        ValueError: unknown orientation or solver.
    """
    matrices = [at_least_float32(tf.stop_gradient(matrix)) for matrix in matrices]
    if solver == "svd":
        found = [_by_svd(matrix, count) for matrix, count in zip(matrices, counts, strict=True)]
    elif solver == "auto":
        found = _by_gram(
            matrices, tuple(counts), tuple(exact or counts), device_of(matrices[0])
        )
    else:
        raise ValueError(f"solver is {solver!r}; expected one of {', '.join(SOLVERS)}")
    if orientation == "canonical":
        return [_canonical(one) for one in found]
    if orientation != "as_computed":
        raise ValueError(f"orientation is {orientation!r}; expected {' or '.join(ORIENTATIONS)}")
    return found


def differentiable(
    matrices: tf.Tensor,
    found: list[Decomposition],
    pick: Callable[..., tuple[tf.Tensor, ...]],
    *,
    gradient: str,
    solver: str,
    trusted: tf.Tensor | None,
) -> tuple[tf.Tensor, ...]:
    """Choose right singular vectors from decompositions, with their gradient.

    The gradient is solved for the chosen vectors only, so unused candidates cost nothing.

    Args:
        matrices: the matrices that ``found[0]`` decomposes.
        found: decompositions, of canonical orientation if `trusted` is given.
        pick: ``pick(*found)`` returns ``index [B, m]`` int32, the vectors ``index`` of
            ``found[0]``, which are differentiated, and any further tensors.
        gradient, solver: see the module's description.
        trusted: scalar bool, whether float32 was precise enough; if not, everything is recomputed
            in float64. None always trusts. Ignored if `found` is already in float64.

    Returns:
        The outputs of `pick`, without the index.

    Raises:
        ValueError: unknown gradient.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient is {gradient!r}; expected one of {', '.join(GRADIENTS)}")
    backward = exact_gradient if gradient == "exact" else published_gradient
    if found[0].right.dtype != tf.float32:
        trusted = None

    def again(one: Decomposition) -> Decomposition:
        precise, count = tf.cast(one.matrices, tf.float64), one.values.shape[1]
        found = decompose([precise], [count], orientation="canonical", solver=solver)[0]
        return _without_overflow(found, one.values.dtype)

    def fast() -> tuple[tf.Tensor, ...]:
        index, *others = pick(*found)
        # On a GPU, branches return int32 in host memory.
        return tf.cast(index, tf.int64), *others

    def slow() -> tuple[tf.Tensor, ...]:
        pairs = zip(pick(*map(again, found)), fast(), strict=True)
        return tuple(tf.cast(precise, like.dtype) for precise, like in pairs)

    def gradient_of(one: Decomposition, index: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
        return tf.cast(backward(one, index, tf.cast(upstream, one.right.dtype)), matrices.dtype)

    @tf.custom_gradient
    def picked(matrices: tf.Tensor):
        index, *outputs = fast() if trusted is None else tf.cond(trusted, fast, slow)

        def grad(upstream: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
            if trusted is None:
                return gradient_of(found[0], index, upstream)
            return tf.cond(
                trusted,
                lambda: gradient_of(found[0], index, upstream),
                lambda: gradient_of(again(found[0]), index, upstream),
            )

        return tuple(outputs), grad

    return picked(matrices)


def exact_gradient(found: Decomposition, index: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """The derivative of the chosen vectors, by implicit differentiation of ``X^T X v = s^2 v``.

    With ``w_i = (s_i^2 I - X^T X)^+ g_i`` the gradient is ``sum_i (X v_i) w_i^T + (X w_i) v_i^T``,
    the same as the closed form of Ionescu et al. with all singular vectors. The pseudo-inverse is
    known along the leading vectors; the rest of it is solved for on the smaller side of X.

    Args:
        found: the decomposition of ``X [B, N, D]``.
        index: ``[B, m]``, which vectors were chosen.
        upstream: the gradient ``g [B, D, m]`` with respect to the chosen vectors.

    Returns:
        The gradient with respect to X, ``[B, N, D]``.
    """
    x, scale, right = found.matrices, found.scale, found.right
    root = tf.sqrt(scale)  # applied twice, to keep products with huge or tiny X in range
    sigma = tf.gather(found.spectrum.values, index, batch_dims=1)[:, None, :]
    chosen = columns(right, index)
    along = transposed_product(right, upstream)  # [B, k, m]
    rest = upstream - product(right, along)
    rest -= product(right, transposed_product(right, rest))  # again, to remove rounding errors
    inverse = _inverse_gaps(found, index)
    count = right.shape[2]
    known = inverse[:, :count] * along
    w = product(right, known)
    if x.shape[1] >= x.shape[2]:
        w += _on_complement(found, index, inverse, rest)
        image = product(x, w / root) / root
    else:
        # (s^2 - X^T X)^+ = (1 + X^T (s^2 - X X^T)^+ X) / s^2
        pulled = product(x, rest / root) / root
        y = _on_complement(found, index, inverse, pulled)
        inverse_square = tf.math.divide_no_nan(tf.ones_like(sigma), sigma**2)
        w += inverse_square * (rest + product(x, y / root, transpose_a=True) / root)
        image = product(x, w / root) / root
    images = tf.concat([sigma * columns(found.left, index), image], axis=2)
    factors = (images, tf.concat([w, chosen], axis=2) / scale)
    # Dropped samples, and vectors with a zero singular value, get no gradient.
    present = tf.gather(found.values, index, batch_dims=1)[:, None, :] > 0
    keep = found.good[:, None, None] & tf.tile(present, [1, 1, 2])
    return product(*(tf.where(keep, factor, 0) for factor in factors), transpose_b=True)


def _inverse_gaps(found: Decomposition, index: tf.Tensor) -> tf.Tensor:
    """``1 / (s_i^2 - s_j^2)`` of the scaled values, ``[B, p, m]`` for the known j and chosen i.

    0 at a tie, where the vectors have no derivative.
    """
    values = found.spectrum.values
    chosen = tf.gather(values, index, batch_dims=1)[:, None, :]  # [B, 1, m]
    tie = _tie(values.dtype) * values[:, :1, None]
    values = values[:, :, None]  # [B, p, 1]
    # Factored: a difference of squares would lose the digits of small values.
    gap = (chosen - values) * (chosen + values)
    return tf.where(
        tf.abs(chosen - values) > tie, tf.math.divide_no_nan(tf.ones_like(gap), gap), 0
    )


def _on_complement(
    found: Decomposition, index: tf.Tensor, inverse: tf.Tensor, b: tf.Tensor
) -> tf.Tensor:
    """``(s_i^2 I - G)^+ b_i`` for the chosen i and ``b [B, n, m]`` orthogonal to the leading
    vectors.

    If only some eigenvectors are known, they give a starting point that leaves little to solve.
    """
    vectors = found.spectrum.vectors
    start = product(vectors, inverse * transposed_product(vectors, b))
    if vectors.shape[2] == vectors.shape[1]:
        return start
    shift = tf.gather(found.spectrum.values, index, batch_dims=1)[:, None, :] ** 2
    return _solve_on_complement(found, shift, b, start)


def _solve_on_complement(
    found: Decomposition, shift: tf.Tensor, b: tf.Tensor, start: tf.Tensor
) -> tf.Tensor:
    """Solve ``(shift_i I - G) z_i = b_i`` with conjugate gradients.

    It is solved on the complement of the leading eigenvectors, where all eigenvalues of G are below
    every shift. It cannot fail: at a tie with an unknown vector, or if rounding makes the matrix
    indefinite, the directions concerned are skipped. On a GPU the number of steps is fixed; if they
    were too few, G is decomposed in full.

    Args:
        shift: ``[B, 1, m]``.
        b, start: ``[B, n, m]``.
    """
    # Vectors with a zero singular value belong to the complement.
    present = tf.cast(found.values[:, None, :] > 0, b.dtype)
    leading = found.spectrum.vectors[:, :, : found.values.shape[1]] * present
    smallest = _tie(b.dtype) * found.spectrum.values[:, :1, None] ** 2

    def project(z: tf.Tensor) -> tf.Tensor:
        return z - product(leading, transposed_product(leading, z))

    def apply(z: tf.Tensor) -> tf.Tensor:
        return project(shift * z - product(found.gram, z))

    def unfinished(step, z, residual, direction, norm):
        return (step < limit) & tf.reduce_any(norm > target)

    def improve(step, z, residual, direction, norm):
        image = apply(direction)
        curvature = _dot(direction, image)
        active = (norm > target) & (curvature > smallest * _dot(direction, direction))
        length = tf.where(active, tf.math.divide_no_nan(norm, curvature), 0)
        z, residual = z + length * direction, residual - length * image
        new_norm = tf.where(active, _dot(residual, residual), 0)
        direction = residual + tf.math.divide_no_nan(new_norm, norm) * direction
        return step + 1, z, residual, direction, new_norm

    target = _dot(b, b) * (16 * epsilon_of(b.dtype)) ** 2
    limit = 2 * b.shape[1] + 20
    # Projected twice: the iteration could never remove what rounding leaves along leading vectors.
    start = project(start)
    residual = project(project(b) - apply(start))
    state = (tf.constant(0), start, residual, residual, _dot(residual, residual))
    if device_of(b) != "GPU":
        return tf.while_loop(unfinished, improve, state)[1]
    for _ in range(GPU_STEPS):
        state = improve(*state)
    _, z, _, _, norm = state
    return tf.cond(
        tf.reduce_any(norm > target),
        lambda: project(_solve_in_full(found.gram, shift, project(b), z, norm > target)),
        lambda: z,
    )


def _solve_in_full(
    gram: tf.Tensor, shift: tf.Tensor, b: tf.Tensor, z: tf.Tensor, unsolved: tf.Tensor
) -> tf.Tensor:
    """Replace the ``unsolved [B, 1, m]`` columns of ``z [B, n, m]`` by ``(shift_i I - G)^+ b_i``.

    Only samples with such columns are decomposed in full.
    """
    rows = tf.where(tf.reduce_any(unsolved, axis=[1, 2]))
    gram, shift, b, old, unsolved = (
        tf.gather_nd(part, rows) for part in (gram, shift, b, z, unsolved)
    )
    values, vectors = full_eigenpairs(gram)
    gap = shift - values[:, :, None]
    tie = _tie(b.dtype) * values[:, :1, None]
    inverse = tf.where(gap > tie, tf.math.divide_no_nan(tf.ones_like(gap), gap), 0)
    solved = product(vectors, inverse * transposed_product(vectors, b))
    return tf.tensor_scatter_nd_update(z, rows, tf.where(unsolved, solved, old))


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Inner products ``[B, 1, m]`` of the columns of ``[B, n, m]``."""
    return tf.reduce_sum(a * b, axis=1, keepdims=True)


def published_gradient(found: Decomposition, index: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """What the published code computes instead of the derivative.

    A guard meant for the infinite diagonal always zeroes its whole matrix K of ``1 / (s_i^2 -
    s_j^2)``. What remains for wide matrices is ``sum_i u_i (g_i - v_i v_i^T g_i)^T / s_i`` over the
    first five vectors; for tall ones, nothing. It also multiplies by ``B / (good + 1e-3)``.

    Arguments and return value are those of `exact_gradient`.
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
    return scale * product(left, across, transpose_b=True)


def _by_svd(x: tf.Tensor, count: int) -> Decomposition:
    """Decompose with `tf.linalg.svd` of the whole matrix; the gradient then needs no solver."""
    good = tf.reduce_all(tf.math.is_finite(x), axis=[1, 2])
    values, left, right = tf.linalg.svd(tf.where(good[:, None, None], x, 0))
    for part in (values, left, right):
        good &= tf.reduce_all(tf.math.is_finite(part), axis=list(range(1, part.shape.rank)))
    scale = tf.where(values[:, :1] > 0, values[:, :1], 1)
    relative = values / scale
    spectrum = Eigenpairs(relative, right if x.shape[1] >= x.shape[2] else left)
    error, present = _turned(relative), relative > _null(x)
    found = Decomposition(
        matrices=x, scale=scale[:, :, None], gram=None, spectrum=spectrum,
        values=values[:, :count], left=left[:, :, :count], right=right[:, :, :count],
        good=good, error=error[:, :count],
    )
    return _zeroed(found, present[:, :count])


@made_once
def _by_gram(
    matrices: list[tf.Tensor], counts: tuple[int, ...], exact: tuple[int, ...], device: Device
) -> list[Decomposition]:
    """Leading vectors from Gram matrices; Gram matrices of the same size are solved together."""
    grams = [_gram(x) for x in matrices]
    traces = [tf.reduce_sum(diagonal(gram), axis=1) for gram in grams]
    # A non-finite entry makes the trace non-finite; the squares of tiny entries underflow.
    good = [tf.math.is_finite(trace) for trace in traces]
    vanished = [_vanished(x, trace, device) for x, trace in zip(matrices, traces, strict=True)]
    scaled = [
        tf.where(fine[:, None, None], tf.math.divide_no_nan(gram, trace[:, None, None]), 0)
        for gram, trace, fine in zip(grams, traces, good, strict=True)
    ]
    found: list[Decomposition | None] = [None] * len(matrices)
    for size in sorted({gram.shape[-1] for gram in grams}):
        group = [i for i, gram in enumerate(grams) if gram.shape[-1] == size]
        pairs = leading_eigenpairs(
            tf.concat([scaled[i] for i in group], axis=0),
            max(counts[i] for i in group),
            max(exact[i] for i in group),
            device,
        )
        batches = [tf.shape(scaled[i])[0] for i in group]
        for i, *part in zip(group, *(tf.split(part, batches) for part in pairs), strict=True):
            scale = tf.sqrt(tf.where(good[i] & (traces[i] > 0), traces[i], 1))
            one = _from_eigenpairs(
                matrices[i], scaled[i], scale, good[i], Eigenpairs(*part), counts[i], exact[i]
            )
            unknown = tf.cast(vanished[i], one.error.dtype)[:, None]
            found[i] = one._replace(error=tf.maximum(one.error, unknown))
    return found


def _vanished(x: tf.Tensor, trace: tf.Tensor, device: Device) -> tf.Tensor:
    """Whether each sample's ``trace [B]`` is zero although ``x [B, N, D]`` is not."""
    zero = trace <= 0

    def vanished() -> tf.Tensor:
        return zero & tf.reduce_any(x != 0, axis=[1, 2])

    if device == "CPU":  # on other devices, computing it is cheaper than a branch
        return tf.cond(tf.reduce_any(zero), vanished, lambda: zero)
    return vanished()


def _from_eigenpairs(
    x: tf.Tensor,
    gram: tf.Tensor,
    scale: tf.Tensor,
    good: tf.Tensor,
    pairs: Eigenpairs,
    count: int,
    exact: int,
) -> Decomposition:
    """Singular triplets of `x` from the eigenpairs of `gram`, the Gram matrix of ``x / scale``."""
    scale = scale[:, None, None]
    spectrum = Eigenpairs(tf.sqrt(pairs.values), pairs.vectors)
    relative, vectors = spectrum.values[:, :count], pairs.vectors[:, :, :count]
    tall = x.shape[1] >= x.shape[2]
    image = product(x, vectors, transpose_a=not tall) / scale
    other = tf.math.divide_no_nan(image, relative[:, None, :])
    left, right = (other, vectors) if tall else (vectors, other)
    # In v = X^T u / s, a turn of u towards another vector is scaled by the other's singular value.
    error = _turned(pairs.values, None if tall else spectrum.values)[:, :count]
    if pairs.values.shape[1] < gram.shape[-1]:
        loose = [0.0] * min(exact, count) + [LOOSE_ERROR] * (count - min(exact, count))
        error += tf.constant(loose, error.dtype)
    present = (pairs.values > _null(x) * pairs.values[:, :1])[:, :count]
    found = Decomposition(
        matrices=x, scale=scale, gram=gram, spectrum=spectrum, values=relative * scale[:, :, 0],
        left=left, right=right, good=good, error=error,
    )
    return _zeroed(found, present)


def _turned(values: tf.Tensor, weight: tf.Tensor | None = None) -> tf.Tensor:
    """How far rounding turns each vector, in radians, ``[B, p]``.

    The rounding error, relative to the largest value, divided by the distance to the other values;
    1 if two values coincide.

    Args:
        values: ``[B, p]``.
        weight: ``[B, p]``: a turn of vector i towards vector j is magnified by ``weight_j /
            weight_i``. None means equal weights.
    """
    count = values.shape[1]
    if weight is None:
        weight = tf.ones_like(values)
    towards = tf.math.divide_no_nan(weight[:, None, :], weight[:, :, None])
    gap = tf.abs(values[:, :, None] - values[:, None, :])
    rounding = 2 * epsilon_of(values.dtype) * values[:, :1, None]
    turned = tf.where(gap > 0, tf.minimum(towards * tf.math.divide_no_nan(rounding, gap), 1), 1)
    return tf.reduce_max(turned * (1 - tf.eye(count, dtype=values.dtype)), axis=2)


def _zeroed(found: Decomposition, present: tf.Tensor) -> Decomposition:
    """Zero the samples that are not good, and the vectors that are not ``present [B, k]``.

    A singular value that is not present is so small that it may be mere rounding, which leaves its
    vector undetermined.
    """
    good, largest = found.good, found.values[:, :1]
    keep = present & good[:, None]
    vague = ~keep & ((largest > 0) | ~good[:, None])
    low, high = SAFE_RANGE
    vague |= (largest > 0) & ((largest < low) | (largest > high))
    return found._replace(
        values=tf.where(keep, found.values, 0),
        left=tf.where(keep[:, None, :], found.left, 0),
        right=tf.where(keep[:, None, :], found.right, 0),
        error=tf.where(vague, tf.ones_like(found.error), tf.where(keep, found.error, 0)),
    )


def _without_overflow(found: Decomposition, dtype: tf.DType) -> Decomposition:
    """Drop the samples whose singular values `dtype` cannot hold.

    Such values come from a map that is not finite, too: on a CPU, the maximum over a window of NaN
    is the lowest finite number.
    """
    found = found._replace(good=found.good & (found.values[:, 0] <= dtype.max))
    return _zeroed(found, found.values > 0)


def _canonical(found: Decomposition) -> Decomposition:
    """Flip both vectors of a pair if the mean response ``sum(X v) = s sum(u)`` is negative."""
    sign = tf.where(tf.reduce_sum(found.left, axis=1, keepdims=True) < 0, -1, 1)
    sign = tf.cast(sign, found.left.dtype)
    return found._replace(left=found.left * sign, right=found.right * sign)


def _gram(x: tf.Tensor) -> tf.Tensor:
    """Gram matrix ``[B, n, n]`` of the smaller side of ``x [B, N, D]``."""
    tall = x.shape[1] >= x.shape[2]
    return product(x, x, transpose_a=tall, transpose_b=not tall)


def columns(vectors: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Columns ``index [B, m]`` of ``vectors [B, n, k]``; a product is faster than gathering."""
    choice = tf.one_hot(index, vectors.shape[2], axis=1, dtype=vectors.dtype)
    return product(vectors, choice)


def _tie(dtype: tf.DType) -> float:
    """Eigenvalues closer than this, relative to the largest, count as equal."""
    return 16 * epsilon_of(dtype)


def _null(x: tf.Tensor) -> float:
    """Values below this, relative to the largest, may be mere rounding."""
    return 4 * min(x.shape[1:]) * epsilon_of(x.dtype)
