"""The DFV distance, computed without materialising DFVs, against the direct formula."""

import numpy as np
import pytest
import tensorflow as tf

from op_util.dfv import basis_size, dfv, dfv_basis, dfv_distance, dfv_gram
from tests.reference import relative_error

SIZES = {"narrow": (5, 7, 3), "wide": (64, 128, 2), "a vector of one channel": (1, 1, 1)}


def vectors_of(sizes, dtype, seed=0, near=None):
    """Student's top, bottom, teacher's top, bottom: weighted unit vectors ``[4, D, k]``."""
    random = np.random.default_rng(seed)
    top, bottom, count = sizes
    found = []
    for size in (top, bottom, top, bottom):
        x = random.normal(size=(4, size, count))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        found.append(x / count**0.5)
    if near is not None:
        found[2] = found[0] + near * found[2]
        found[3] = found[1] + near * found[3]
    return [tf.constant(x, dtype) for x in found]


def through_basis(student_top, student_bottom, teacher_top, teacher_bottom):
    top, bottom = (student_top, teacher_top), (student_bottom, teacher_bottom)
    return dfv_distance(*(dfv_gram(*map(dfv_basis, part)) for part in (top, bottom)))


def direct(student_top, student_bottom, teacher_top, teacher_bottom):
    """The direct formula in NumPy, in float64."""
    parts = student_top, student_bottom, teacher_top, teacher_bottom
    st, sb, tt, tb = (np.asarray(part, np.float64) for part in parts)
    student = np.exp(-((st[:, :, None] - sb[:, None]) ** 2) / 8)
    teacher = np.exp(-((tt[:, :, None] - tb[:, None]) ** 2) / 8)
    return np.sum((student - teacher) ** 2, axis=(1, 2, 3))


def test_dfv_equals_the_formula():
    top, bottom, *_ = vectors_of(SIZES["narrow"], tf.float64)
    found = dfv(top, bottom)
    assert found.shape == (4, 5, 7, 3)
    a, b = float(top[1, 2, 0]), float(bottom[1, 6, 0])
    np.testing.assert_allclose(found[1, 2, 6, 0], np.exp(-((a - b) ** 2) / 8), rtol=1e-15)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float64, 1e-12), (tf.float32, 3e-6)])
def test_distance(sizes, dtype, tolerance):
    vectors = vectors_of(sizes, dtype)
    np.testing.assert_allclose(through_basis(*vectors), direct(*vectors), rtol=tolerance)


@pytest.mark.parametrize("sizes", [SIZES["narrow"], SIZES["wide"]])
@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float64, 1e-11), (tf.float32, 1e-4)])
def test_distance_of_a_student_close_to_the_teacher(sizes, dtype, tolerance):
    """They differ by a thousandth, so the distance is a millionth.

    The direct formula in float32 would lose more digits.
    """
    vectors = vectors_of(sizes, dtype, near=1e-3)
    expected = direct(*vectors)
    found = through_basis(*vectors).numpy()
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    materialised = tf.reduce_sum((dfv(*vectors[:2]) - dfv(*vectors[2:])) ** 2, axis=[1, 2, 3])
    if dtype == tf.float32:
        assert np.max(np.abs(found - expected)) < np.max(np.abs(materialised - expected)) / 3


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_distance_at_the_ends_of_the_range(dtype):
    """With entries of -1 and 1, the argument of the series is largest."""
    ends = [tf.constant(x, dtype)[None, :, None] for x in ([1, -1], [-1, 1], [-1, 1], [1, 1])]
    tolerance = 4 * np.finfo(dtype.as_numpy_dtype).eps
    np.testing.assert_allclose(through_basis(*ends), direct(*ends), rtol=tolerance)


def test_products_of_basis_functions_give_the_dfv():
    top, bottom, *_ = vectors_of(SIZES["narrow"], tf.float64)
    one = tf.one_hot(0, basis_size(tf.float64), dtype=tf.float64)[:, None]
    products = tf.einsum("bkjm,bkjn->bmnk", dfv_basis(top) + one, dfv_basis(bottom) + one)
    np.testing.assert_allclose(products, dfv(top, bottom), rtol=1e-15)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float64, 1e-11), (tf.float32, 1e-5)])
def test_gradient(sizes, dtype, tolerance):
    """Against the derivative of the direct formula, derived by hand, in float64."""
    vectors = vectors_of(sizes, dtype)
    with tf.GradientTape() as tape:
        tape.watch(vectors[:2])
        total = tf.reduce_sum(through_basis(*vectors))
    found = tape.gradient(total, vectors[:2])
    st, sb, tt, tb = (np.asarray(x, np.float64) for x in vectors)
    gap = st[:, :, None] - sb[:, None]
    student = np.exp(-(gap**2) / 8)
    teacher = np.exp(-((tt[:, :, None] - tb[:, None]) ** 2) / 8)
    at_gap = 2 * (student - teacher) * student * -gap / 4
    assert relative_error([x.numpy() for x in found], [at_gap.sum(2), -at_gap.sum(1)]) < tolerance


def test_the_graph_has_no_tensor_with_both_maps_channels():
    """No tensor, forward or backward, has D_top x D_bottom entries per image."""
    sizes = (48, 80, 2)
    specs = [tf.TensorSpec([None, d, 2]) for d in (*sizes[:2], *sizes[:2])]

    @tf.function(input_signature=specs)
    def step(*vectors):
        with tf.GradientTape() as tape:
            tape.watch(vectors[:2])
            total = tf.reduce_sum(through_basis(*vectors))
        return total, tape.gradient(total, vectors[:2])

    tensors = [t for op in step.get_concrete_function().graph.get_operations() for t in op.outputs]
    assert len(tensors) > 50
    known = [t.shape for t in tensors if t.shape.rank is not None]
    assert len(known) > len(tensors) // 2
    for shape in known:
        assert np.prod([size or 1 for size in shape.as_list()]) < sizes[0] * sizes[1], shape
