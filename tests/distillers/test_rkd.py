"""RKD against loops over pairs and triplets."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients

RKD = distillers.get("RKD")


def embeddings(seed, samples=6, scale=1.0):
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, 9)) * scale, random.normal(size=(samples, 4)) * scale


def huber(x):
    return x**2 / 2 if abs(x) <= 1 else abs(x) - 0.5


def distances(samples):
    n = len(samples)
    found = {(i, j): np.linalg.norm(samples[i] - samples[j]) for i in range(n) for j in range(n)}
    mean = np.mean([d for d in found.values() if d > 0])
    return {pair: d / mean for pair, d in found.items()}


def cosine(samples, i, j, k):
    a, b = samples[j] - samples[i], samples[k] - samples[i]
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / lengths if lengths else 0.0


def by_loop(teacher, student, distance_weight, angle_weight):
    n = len(teacher)
    d, e = distances(teacher), distances(student)
    distance = np.mean([huber(d[pair] - e[pair]) for pair in d])
    angle = np.mean([
        huber(cosine(teacher, *ijk) - cosine(student, *ijk))
        for ijk in itertools.product(range(n), repeat=3)
    ])
    return distance_weight * distance + angle_weight * angle


@pytest.mark.parametrize("weights", [(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)])
def test_loss_equals_a_loop(weights):
    """Also beyond 1, where the Huber loss is linear: a teacher with one sample far away."""
    teacher, student = embeddings(0)
    teacher[0] += 30
    found = RKD(distance_weight=weights[0], angle_weight=weights[1]).compute_loss(
        tf.constant(teacher), tf.constant(student)
    )
    np.testing.assert_allclose(found, by_loop(teacher, student, *weights), rtol=1e-9)
    d, e = distances(teacher), distances(student)
    assert max(abs(d[pair] - e[pair]) for pair in d) > 1


def test_gradient():
    assert_gradient(RKD(), *embeddings(1))
    assert RKD.couples_samples


def test_equal_samples_and_zeros():
    teacher, student = embeddings(2)
    student[3] = student[1]
    student[4] = 0
    loss, _, ours = gradients(RKD(), teacher, student)
    np.testing.assert_allclose(loss, by_loop(teacher, student, 25, 50), rtol=1e-9)
    assert np.all(np.isfinite(ours)) and np.any(ours)
    for collapsed in (np.zeros((6, 4)), np.ones((6, 4))):
        loss, _, ours = gradients(RKD(), teacher, collapsed)
        assert np.isfinite(loss) and not np.any(ours)
    loss, _, ours = gradients(RKD(), teacher, 2 * teacher)  # similar figures
    np.testing.assert_allclose(loss, 0, atol=1e-12)
    np.testing.assert_allclose(ours, 0, atol=1e-10)
    loss, _, ours = gradients(RKD(), teacher[:1], student[:1])
    assert loss == 0 and not np.any(ours)


def test_low_precision():
    assert_finite_in_bfloat16(RKD(), *embeddings(3))


def test_what_makes_no_sense_is_refused():
    for wrong in ({"distance_weight": -1.0}, {"angle_weight": np.nan}, {"weight": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            RKD(**wrong)


def test_training():
    run_method_test(RKD())
