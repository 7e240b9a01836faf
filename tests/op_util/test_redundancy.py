"""Losses without negatives against the authors' values and against NumPy."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from op_util import redundancy

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "field_losses.npz")
FIRST, SECOND = GOLDEN["a/student_embedding"], GOLDEN["a/teacher_embedding"]


@pytest.mark.parametrize(("name", "loss"), [
    ("barlow_twins_5e-3", redundancy.barlow_twins),
    ("vicreg_25_25_1", redundancy.vicreg),
    ("negative_cosine", redundancy.negative_cosine),
])
def test_the_authors_values(name, loss):
    found = loss(tf.constant(FIRST), tf.constant(SECOND))
    np.testing.assert_allclose(found, GOLDEN[f"a/loss/{name}"], rtol=2e-6)
    assert found.dtype == tf.float32


def test_weights_of_the_terms_against_numpy():
    x, y = FIRST.astype(float), SECOND.astype(float)
    hinges = sum(np.maximum(0, 1 - np.sqrt(z.var(0, ddof=1) + 1e-4)).mean() for z in (x, y)) / 2
    covariances = 0
    for z in (x, y):
        matrix = np.cov(z.T)
        covariances += (matrix[~np.eye(len(matrix), dtype=bool)] ** 2).sum() / len(matrix)
    expected = 3 * ((x - y) ** 2).mean() + 2 * hinges + 0.5 * covariances
    np.testing.assert_allclose(redundancy.vicreg(x, y, 3, 2, 0.5), expected, rtol=1e-5)
    x, y = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (x, y))
    matrix = x.T @ y / len(x)
    off = (matrix[~np.eye(len(matrix), dtype=bool)] ** 2).sum()
    expected = ((1 - np.diag(matrix)) ** 2).sum() + 0.3 * off
    np.testing.assert_allclose(redundancy.barlow_twins(FIRST, SECOND, 0.3), expected, rtol=1e-5)


def test_the_projection_gets_no_gradient():
    p, z = tf.constant(FIRST), tf.constant(SECOND)
    with tf.GradientTape() as tape:
        tape.watch([p, z])
        loss = redundancy.negative_cosine(p, z)
    to_p, to_z = tape.gradient(loss, [p, z])
    assert np.any(to_p) and to_z is None


@pytest.mark.parametrize("loss", [redundancy.barlow_twins, redundancy.vicreg])
@pytest.mark.parametrize("images", [1, 2])
def test_few_images_give_finite_losses_and_gradients(loss, images):
    x = tf.constant(FIRST[:images])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loss(x, tf.constant(SECOND[:images]))
    assert np.isfinite(value) and np.all(np.isfinite(tape.gradient(value, x)))
