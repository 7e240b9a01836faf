"""PKT against a loop over pairs of samples."""

import numpy as np
import pytest
import tensorflow as tf

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients

PKT = distillers.get("PKT")


def embeddings(seed, samples=6):
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, 9)), random.normal(size=(samples, 4))


def probabilities(samples):
    def unit(x):
        return x / (np.linalg.norm(x) or 1.0)

    kernel = np.array([[(unit(a) @ unit(b) + 1) / 2 for b in samples] for a in samples])
    return np.array([row / np.sum(row) for row in kernel])


def by_loop(teacher, student):
    p, q = probabilities(teacher), probabilities(student)
    n = len(teacher)
    terms = [
        p[i, j] * np.log((p[i, j] + 1e-7) / (q[i, j] + 1e-7)) for i in range(n) for j in range(n)
    ]
    return np.mean(terms)


def test_loss_equals_a_loop():
    teacher, student = embeddings(0)
    found = PKT().compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, by_loop(teacher, student), rtol=1e-9)


def test_gradient():
    assert_gradient(PKT(), *embeddings(1))
    assert PKT.couples_samples


def test_zeros_and_equal_samples():
    teacher, student = embeddings(2)
    student[3] = student[1]
    student[4] = 0
    loss, _, ours = gradients(PKT(), teacher, student)
    np.testing.assert_allclose(loss, by_loop(teacher, student), rtol=1e-9)
    assert np.all(np.isfinite(ours)) and np.any(ours) and not np.any(ours[4])
    loss, _, ours = gradients(PKT(), teacher, 3 * teacher)
    np.testing.assert_allclose([loss, *np.ravel(ours)], 0, atol=1e-8)  # not 0 for epsilon's sake


def test_opposite_samples_in_float32():
    """Cosines of -1 and, by rounding, less."""
    random = np.random.default_rng(3)
    for _ in range(50):
        x = random.normal(size=(1, 5)).astype("float32")
        samples = np.concatenate([x, -3 * x])
        loss, _, ours = gradients(PKT(), samples[:, :3], samples)
        assert np.isfinite(loss) and np.all(np.isfinite(ours))


def test_low_precision():
    assert_finite_in_bfloat16(PKT(), *embeddings(4))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="weight"):
        PKT(weight=0.0)


def test_training():
    run_method_test(PKT())
