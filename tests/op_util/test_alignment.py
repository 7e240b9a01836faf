"""Alignment of student and teacher vectors against a plain loop; importance weights."""

import numpy as np
import pytest
import tensorflow as tf

from op_util.alignment import align_taps, importance
from op_util.singular_vectors import SOLVERS
from tests.reference import aligned, relative_error, right_vectors, with_spectrum


def taps_of(seed, *shapes):
    random = np.random.default_rng(seed)
    return [random.normal(size=(4, *shape)) + 0.2 for shape in shapes]


@pytest.mark.parametrize("num_dfv", [1, 2, 4])
def test_alignment_equals_a_loop(num_dfv, solver):
    shapes = (30, 12), (16, 20), (36, 30), (1, 9), (3, 8)
    other = (20, 12), (25, 20), (40, 30), (1, 9), (2, 8)  # the teacher's maps may differ in size
    student, teacher = taps_of(0, *shapes), taps_of(1, *other)
    found = align_taps(
        [tf.constant(x) for x in student],
        [tf.constant(x) for x in teacher],
        num_dfv,
        gradient="exact",
        orientation="canonical",
        solver=solver,
    )
    for tap, one in enumerate(found):
        count = min(num_dfv, *shapes[tap], *other[tap])
        assert one.student.shape[2] == one.teacher.shape[2] == one.values.shape[1] == count
        assert np.all(one.good)
        for sample in range(4):
            ours, theirs, weights = aligned(teacher[tap][sample], student[tap][sample], count)
            np.testing.assert_allclose(one.student[sample], ours, atol=1e-9)
            np.testing.assert_allclose(one.teacher[sample], theirs, atol=1e-9)
            np.testing.assert_allclose(importance(one.values)[sample], weights, atol=1e-9)


def test_a_cosine_of_zero_counts_as_positive(solver):
    """An all-zero student map has no vectors; the teacher's keep their signs."""
    teacher = tf.constant(np.random.default_rng(3).normal(size=(2, 6, 8)))
    (one,) = align_taps(
        [tf.zeros_like(teacher)], [teacher], 2,
        gradient="exact", orientation="canonical", solver=solver,
    )
    np.testing.assert_array_equal(one.student, 0)
    np.testing.assert_allclose(one.teacher, right_vectors(teacher.numpy(), 2)[1], atol=1e-12)


@pytest.mark.parametrize(
    "values", [[1, 0.1, 0.01, 1e-3], [1, 1e-2, 1e-3, 5e-4], [1, 0.999, 0.998, 0.997]]
)
@pytest.mark.parametrize(("rows", "columns"), [(36, 12), (12, 36), (36, 64)])
def test_solvers_agree_where_a_float32_gram_matrix_is_too_coarse(rows, columns, values):
    """Small and close singular values: float32 with either solver against NumPy in float64."""
    student = [np.stack([with_spectrum(i, rows, columns, values) for i in range(3)])]
    teacher = [np.stack([with_spectrum(9 + i, rows, columns, [1, 0.5, 0.3]) for i in range(3)])]
    for solver in SOLVERS:
        (one,) = align_taps(
            [tf.constant(x, tf.float32) for x in student],
            [tf.constant(x, tf.float32) for x in teacher],
            3,
            gradient="exact",
            orientation="canonical",
            solver=solver,
        )
        for i in range(3):
            ours, theirs, _ = aligned(teacher[0][i], student[0][i].astype(np.float32) * 1.0, 3)
            assert relative_error(one.student[i], ours) < 2e-3
            assert relative_error(one.teacher[i], theirs) < 1e-5


def test_importance_against_numpy():
    values = np.random.default_rng(4).random((5, 3))
    values[2] = 0
    values[3, 1:] = 0
    expected = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-300)
    np.testing.assert_allclose(importance(tf.constant(values)), expected, rtol=1e-12)
    np.testing.assert_array_equal(importance(tf.constant([[3.0], [0.0]])), [[1.0], [0.0]])


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_importance_does_not_depend_on_the_scale(scale):
    values = tf.constant([[2.0, 1.0]]) * scale
    np.testing.assert_allclose(importance(values), [[2 / 5**0.5, 1 / 5**0.5]], rtol=1e-6)
