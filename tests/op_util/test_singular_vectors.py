"""Right singular vectors and their gradient against NumPy, finite differences and closed forms."""

import numpy as np
import pytest
import tensorflow as tf

from op_util.decomposition import PLANS
from op_util.singular_vectors import ORIENTATIONS, SOLVERS, right_singular_vectors
from tests.reference import gradient_of_vectors, relative_error, right_vectors, with_spectrum


def spread(count):
    return [1 / (1 + i) for i in range(count)]


def close(count):
    """All neighbouring values have a relative gap of 1e-3."""
    return [1 - 1e-3 * i for i in range(count)]


def triplets(count):
    """Two groups of three close values, then a decaying tail."""
    return [1, 0.999, 0.998, 0.5, 0.499, 0.498, *(0.4 * 0.8**i for i in range(count - 6))]


def steep(count):
    """Decays to a thousandth of the first value, where a Gram matrix keeps few digits."""
    return [1, 0.1, 0.01, 1e-3]


SMALL = [(30, 8), (8, 30), (16, 16), (1, 9), (9, 1), (4, 50)]
COMPRESSED = [(100, 40), (40, 100), (64, 64)]
SPECTRA = {"spread": spread, "close": close, "triplets": triplets, "steep": steep}


def cases():
    for rows, columns in SMALL + COMPRESSED:
        size = min(rows, columns)
        for name, spectrum in SPECTRA.items():
            if size < 8 and name not in ("spread", "close"):
                continue
            yield pytest.param(rows, columns, spectrum(size), id=f"{rows}x{columns}-{name}")
        if size > 5:
            yield pytest.param(rows, columns, spread(5), id=f"{rows}x{columns}-rank5")


def value_and_gradient(x, upstream, dtype=tf.float64, **options):
    """Vectors ``[B, D, k]``, and the gradient with respect to ``x [B, N, D]`` for `upstream`."""
    x, upstream = tf.constant(x, dtype), tf.constant(upstream, dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, vectors = right_singular_vectors(x, upstream.shape[2], **options)
        total = tf.reduce_sum(vectors * upstream)
    return vectors.numpy(), tape.gradient(total, x).numpy()


def test_cases_reach_the_compressed_path():
    assert all(min(shape) > plan.full_below for shape in COMPRESSED for plan in PLANS.values())


@pytest.mark.parametrize(("rows", "columns", "values"), list(cases()))
def test_vectors_and_exact_gradient_in_float64(rows, columns, values, solver):
    """For the first vector and for four; finite differences are compared for two and three too."""
    x = with_spectrum(rows * columns, rows, columns, values)
    for count in {1, min(4, len(values))}:
        upstream = np.random.default_rng(count).normal(size=(columns, count))
        vectors, gradient = value_and_gradient(x[None], upstream[None], solver=solver)
        np.testing.assert_allclose(vectors[0], right_vectors(x, count)[1], rtol=0, atol=1e-9)
        if columns > 1:
            assert relative_error(gradient[0], gradient_of_vectors(x, upstream)) < 1e-7
        else:
            np.testing.assert_allclose(gradient, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "columns", "values"),
    [
        pytest.param(12, 5, close(5), id="tall"),
        pytest.param(5, 12, close(5), id="wide"),
        pytest.param(8, 8, close(8), id="square"),
        pytest.param(12, 7, [1, 0.999, 0.998, 0.3], id="tall of rank 4"),
        pytest.param(7, 12, [1, 0.999, 0.998, 0.3], id="wide of rank 4"),
    ],
)
def test_exact_gradient_equals_finite_differences(rows, columns, values, solver):
    x = with_spectrum(1, rows, columns, values)
    for count in (1, 2, 3, 4):
        upstream = np.random.default_rng(count).normal(size=(columns, count))
        _, gradient = value_and_gradient(x[None], upstream[None], solver=solver)
        assert relative_error(gradient[0], differences(x, upstream)) < 1e-6


def differences(x, upstream, step=2e-6):
    """Central differences of the 4th order for every entry of x."""
    moves = step * np.eye(x.size).reshape(-1, *x.shape)

    def total(times):
        return np.sum(right_vectors(x + times * moves, upstream.shape[1])[1] * upstream, (1, 2))

    slope = (8 * (total(1) - total(-1)) - (total(2) - total(-2))) / (12 * step)
    return slope.reshape(x.shape)


@pytest.mark.parametrize("shape", COMPRESSED)
@pytest.mark.parametrize("spectrum", ["close", "triplets", "spread"])
def test_exact_gradient_of_large_maps_along_random_directions(shape, spectrum, device):
    x = with_spectrum(7, *shape, SPECTRA[spectrum](min(shape)))
    upstream = np.random.default_rng(1).normal(size=(shape[1], 3))
    _, gradient = value_and_gradient(x[None], upstream[None], solver="auto")
    directions = np.random.default_rng(2).normal(size=(5, *shape))
    directions[0] = gradient[0]
    directions /= np.linalg.norm(directions, axis=(1, 2), keepdims=True)
    step = 2e-6

    def total(times):
        return np.sum(right_vectors(x + times * step * directions, 3)[1] * upstream, (1, 2))

    slope = (8 * (total(1) - total(-1)) - (total(2) - total(-2))) / (12 * step)
    along = np.sum(gradient * directions, axis=(1, 2))
    assert np.max(np.abs(slope - along)) < 1e-6 * np.linalg.norm(gradient)


@pytest.mark.parametrize(("rows", "columns", "values"), list(cases()))
def test_solvers_agree_in_float32(rows, columns, values, device):
    """Agreement to rounding divided by the smallest relative gap.

    Or divided by the smallest value's square, where the Gram matrix contains only the square. The
    reference is NumPy in float64.
    """
    count = min(4, len(values))
    if min(values[:count]) < 0.01:
        count = 2  # a float32 Gram matrix is too coarse for the others; see test_alignment.py
    x = with_spectrum(rows * columns, rows, columns, values).astype(np.float32)
    upstream = np.random.default_rng(3).normal(size=(columns, count))
    gap = np.min(-np.diff(values)[:count]) if len(values) > 1 else 1
    tolerance = 4e-6 / min(gap, values[count - 1] ** 2)
    found = {}
    for solver in SOLVERS:
        vectors, gradient = value_and_gradient(
            x[None], upstream[None], tf.float32, solver=solver
        )
        np.testing.assert_allclose(
            vectors[0], right_vectors(x.astype(float), count)[1], rtol=0, atol=tolerance
        )
        found[solver] = gradient
    if columns > 1:
        assert relative_error(found["auto"], found["svd"]) < tolerance


@pytest.mark.parametrize("gradient", ["exact", "published"])
def test_samples_of_a_batch_do_not_affect_each_other(solver, gradient):
    """A hard or non-finite sample does not affect the others."""
    random = np.random.default_rng(4)
    x = random.normal(size=(5, 30, 40)) + 0.3
    x[1] = 0
    x[2, 3, 4] = np.nan
    x[3] = with_spectrum(5, 30, 40, close(30))
    upstream = random.normal(size=(5, 40, 2))
    options = {"solver": solver, "gradient": gradient}
    vectors, slope = value_and_gradient(x, upstream, **options)
    scale = 1.0
    if gradient == "published":
        scale = 5 / 4.001  # the original code's factor for one bad sample of five
    for i in (0, 3, 4):
        alone, slope_alone = value_and_gradient(x[i : i + 1], upstream[i : i + 1], **options)
        np.testing.assert_allclose(vectors[i], alone[0], atol=1e-10)
        if gradient == "published":
            slope_alone = slope_alone * 1.001
        np.testing.assert_allclose(slope[i], scale * slope_alone[0], rtol=1e-8, atol=1e-8)
    for i in (1, 2):
        np.testing.assert_array_equal(vectors[i], 0)
        np.testing.assert_array_equal(slope[i], 0)


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (8, 8)])
def test_published_gradient(shape):
    """The closed form's terms without K, for the first five vectors, times B / (good + 1e-3)."""
    x = np.random.default_rng(5).normal(size=(3, *shape))
    upstream = np.random.default_rng(6).normal(size=(3, shape[1], 7))
    vectors, gradient = value_and_gradient(x, upstream, solver="svd", gradient="published")
    if shape[0] >= shape[1]:
        np.testing.assert_array_equal(gradient, 0)
        return
    for i in range(3):
        v = vectors[i][:, :5]
        g = upstream[i][:, :5]
        s = np.linalg.norm(x[i] @ v, axis=0)
        u = x[i] @ v / s
        e = g / s
        expected = u @ e.T - u @ np.diag(np.diag(e.T @ v)) @ v.T
        assert relative_error(gradient[i], expected * 3 / 3.001) < 1e-9


def test_canonical_orientation(solver):
    x = np.random.default_rng(7).normal(size=(6, 20, 12))
    values, vectors = right_singular_vectors(tf.constant(x), 4, solver=solver)
    response = np.sum(x @ vectors.numpy(), axis=1)
    assert np.all(response >= 0)
    np.testing.assert_allclose(
        np.linalg.norm(x @ vectors.numpy(), axis=1), values.numpy(), rtol=1e-9
    )
    _, first = right_singular_vectors(tf.nn.relu(tf.constant(x)), 1, solver=solver)
    assert np.all(first.numpy() >= -1e-12)  # Perron: after ReLU the first has one sign


def test_as_computed_keeps_the_routines_signs():
    x = tf.constant(np.random.default_rng(8).normal(size=(6, 20, 12)))
    _, vectors = right_singular_vectors(x, 4, solver="svd", orientation="as_computed")
    np.testing.assert_array_equal(vectors, tf.linalg.svd(x)[2][:, :, :4])


def matrices_of(name):
    """Hard cases ``[3, N, D]``."""
    random = np.random.default_rng(9)
    maps = random.normal(size=(3, 16, 30)) + 0.5
    orthogonal = np.linalg.qr(random.normal(size=(3, 30, 30)))[0]
    large = np.linalg.qr(random.normal(size=(3, 64, 64)))[0]
    return {
        "zero": np.zeros_like(maps),
        "constant": np.ones_like(maps),
        "large constant": np.ones((3, 49, 64)),
        "rank 1": maps[:, :, :1] * maps[:, :1, :],
        "tall ties": orthogonal[:, :, :9],
        "wide ties": orthogonal[:, :9],
        "large ties": large,
        "large tall ties": np.concatenate([large, large], axis=1),
        "pairs of ties": large * np.repeat(np.arange(1.0, 33.0), 2),
        "identity": np.stack([np.eye(12)] * 3),
        "1x1 map": maps[:, :1],
        "one channel": maps[:, :, :1],
        "one number": maps[:, :1, :1],
        "one row is NaN": np.where(np.arange(16)[:, None] == 3, np.nan, maps),
        "infinite": maps * np.inf,
        "huge": maps * 1e20,
        "tiny": maps * 1e-20,
        "hugest": maps * 1e37,
        "tiniest": maps * 1e-37,
        "lowest": np.full_like(maps, np.finfo(np.float32).min),
    }[name]


HARD = (
    "zero, constant, large constant, rank 1, tall ties, wide ties, large ties, large tall ties, "
    "pairs of ties, identity, 1x1 map, one channel, one number, one row is NaN, infinite, huge, "
    "tiny, hugest, tiniest, lowest"
).split(", ")


@pytest.mark.parametrize("name", HARD)
def test_always_finite(name, device):
    x = matrices_of(name)
    for dtype in (tf.float32, tf.float64):
        for solver in SOLVERS:
            for gradient in ("exact", "published"):
                for orientation in ORIENTATIONS:
                    count = min(3, *x.shape[1:])
                    upstream = np.random.default_rng(1).normal(size=(3, x.shape[2], count))
                    vectors, slope = value_and_gradient(
                        x, upstream, dtype, solver=solver, gradient=gradient,
                        orientation=orientation,
                    )
                    assert np.all(np.isfinite(vectors)) and np.all(np.isfinite(slope))
                    lengths = np.linalg.norm(vectors, axis=1)
                    assert np.all((np.abs(lengths - 1) < 1e-4) | (lengths == 0))


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_vectors_do_not_depend_on_the_scale_of_the_map(scale, solver):
    """In float32, the squares of such numbers overflow or underflow."""
    random = np.random.default_rng(10)
    for shape in ((16, 30), (30, 16), (40, 50)):
        x = random.normal(size=(2, *shape)) + 0.3
        upstream = random.normal(size=(2, shape[1], 2))
        expected, slope = value_and_gradient(x, upstream, tf.float32, solver=solver)
        vectors, scaled_slope = value_and_gradient(scale * x, upstream, tf.float32, solver=solver)
        np.testing.assert_allclose(vectors, expected, atol=1e-4)
        assert relative_error(scaled_slope.astype(float) * scale, slope) < 1e-3


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float32, tf.float64])
def test_narrow_types_are_computed_in_float32(dtype):
    x = tf.cast(np.random.default_rng(11).normal(size=(2, 20, 30)), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, vectors = right_singular_vectors(x, 2)
        total = tf.reduce_sum(vectors[:, 0])
    assert vectors.dtype == (tf.float64 if dtype == tf.float64 else tf.float32)
    assert tape.gradient(total, x).dtype == dtype
    expected = right_vectors(x.numpy().astype(float), 2)[1]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "solver"), [((20, 12), "svd"), ((30, 40), "auto")])
def test_compiled_by_xla(shape, solver):
    random = np.random.default_rng(12)
    x, upstream = random.normal(size=(2, *shape)) + 0.3, random.normal(size=(2, shape[1], 2))

    @tf.function(jit_compile=True)
    def slope(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            _, vectors = right_singular_vectors(x, 2, solver=solver)
            total = tf.reduce_sum(vectors * upstream)
        return vectors, tape.gradient(total, x)

    vectors, gradient = slope(tf.constant(x, tf.float32), tf.constant(upstream, tf.float32))
    for i in range(2):
        np.testing.assert_allclose(vectors[i], right_vectors(x[i], 2)[1], atol=1e-4)
        assert relative_error(gradient[i], gradient_of_vectors(x[i], upstream[i])) < 1e-3


def test_at_most_all_vectors_are_returned():
    values, vectors = right_singular_vectors(tf.ones([2, 3, 7]), 5)
    assert values.shape == (2, 3) and vectors.shape == (2, 7, 3)


@pytest.mark.parametrize("option", ["solver", "orientation"])
def test_unknown_choices_are_refused(option):
    with pytest.raises(ValueError, match=option):
        right_singular_vectors(tf.ones([2, 3, 7]), 1, **{option: "best"})


@pytest.mark.parametrize("shape", [(40, 30), (100, 64), (30, 40), (64, 100), (6, 4)])
@pytest.mark.parametrize("dtype", [tf.float64, tf.float32])
def test_gradient_of_a_rank_one_map_with_too_many_vectors_requested(shape, solver, dtype):
    """The first vector can turn towards the vectors with a zero singular value."""
    random = np.random.default_rng(0)
    x = np.outer(random.random(shape[0]) + 0.1, random.random(shape[1]) + 0.1)[None]
    weights, direction = random.normal(size=shape[1]), random.normal(size=shape)

    def value(x):
        x = tf.convert_to_tensor(x)
        vector = right_singular_vectors(x, 3, solver=solver)[1][0, :, 0]
        return tf.tensordot(vector, tf.constant(weights, x.dtype), 1)

    maps = tf.constant(x, dtype)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        found = value(maps)
    slope = np.sum(tape.gradient(found, maps)[0].numpy() * direction)
    step = 1e-6
    numeric = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    assert slope == pytest.approx(float(numeric), rel=1e-6 if dtype == tf.float64 else 1e-5)
