"""Losses between embeddings against loops in NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from op_util.metric_learning import (
    deviation,
    effective_rank,
    finds_partner,
    normalised,
    nt_xent,
    relational_loss,
    triplet_loss,
)
from tests.reference import relative_error


def unit(*shape, seed=0, spread=1.0):
    """Vectors of length 1 around a common direction; a smaller `spread` makes them closer."""
    random = np.random.default_rng(seed)
    x = random.normal(size=shape[-1]) * (1 - spread) + random.normal(size=shape) * spread
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def value_and_gradient(function, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return float(value), tape.gradient(value, x).numpy()


def differences(function, x, step=1e-6):
    """Central differences for every entry of x."""
    slope = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        move = np.zeros_like(x)
        move[place] = step
        slope[place] = (float(function(x + move)) - float(function(x - move))) / (2 * step)
    return slope


def triplets_by_loop(e, margin):
    """Examine all triplets of the batch and keep the semi-hard ones."""
    images, tasks, _ = e.shape
    losses = []
    for a in range(tasks):
        for b in range(tasks):
            for i in range(images):
                if a == b:
                    continue
                positive = np.sum((e[i, a] - e[i, b]) ** 2)
                others = [np.sum((e[i, a] - e[j, b]) ** 2) for j in range(images) if j != i]
                farther = [distance for distance in others if distance > positive]
                negative = min(farther) if farther else max(others)
                losses.append(max(0, positive - negative + margin))
    return np.mean(losses)


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(("images", "tasks"), [(7, 2), (6, 3), (2, 4)])
def test_triplet_loss_equals_brute_force(images, tasks, margin):
    for spread in (0.1, 1.0):
        e = unit(images, tasks, 5, spread=spread)
        found = triplet_loss(tf.constant(e), margin)
        np.testing.assert_allclose(found, triplets_by_loop(e, margin), rtol=1e-9, atol=1e-12)


def test_brute_force_covers_both_kinds_of_triplets():
    """Some anchors have a negative farther than the positive, others have none."""
    kinds = set()
    for spread in (0.1, 1.0):
        e = unit(6, 3, 5, spread=spread)
        for a, b, i in np.ndindex(3, 3, 6):
            distances = np.sum((e[i, a] - e[:, b]) ** 2, axis=1)
            kinds.add(a == b or bool(np.any(distances > distances[i])))
    assert kinds == {True, False}


def test_triplet_gradient():
    e = unit(5, 3, 4, seed=1)
    _, gradient = value_and_gradient(lambda x: triplet_loss(x, 0.3), e)
    assert relative_error(gradient, differences(lambda x: triplets_by_loop(x, 0.3), e)) < 1e-6


def test_triplet_loss_is_zero_if_tasks_agree_on_distant_images():
    e = np.repeat(np.eye(4)[:, None], 3, axis=1)
    assert float(triplet_loss(tf.constant(e), 0.2)) == 0
    # One task exchanges two images, which affects 8 of the 24 anchors: their positive is as far as
    # the farthest image, and the nearest image, at distance 0, is harder than semi-hard.
    e[:2, 1] = e[1::-1, 1]
    np.testing.assert_allclose(triplet_loss(tf.constant(e), 0.2), 0.2 * 8 / 24)


def relations_by_loop(e, common=None):
    images, tasks, _ = e.shape
    pairs = [(i, j) for i in range(images) for j in range(images) if i != j]
    relative = []
    for t in range(tasks):
        distances = np.array([np.linalg.norm(e[i, t] - e[j, t]) for i, j in pairs])
        relative.append(distances / distances.mean())
    common = np.mean(relative, axis=0) if common is None else common
    return np.mean((np.array(relative) - common) ** 2), common


@pytest.mark.parametrize(("images", "tasks"), [(6, 2), (5, 4), (2, 3)])
def test_relational_loss_equals_a_loop(images, tasks):
    e = unit(images, tasks, 5)
    found, gradient = value_and_gradient(relational_loss, e)
    expected, common = relations_by_loop(e)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
    if images > 2:
        # The gradient treats the mean over tasks as constant.
        slope = differences(lambda x: relations_by_loop(x, common)[0], e)
        assert relative_error(gradient, slope) < 1e-6


def test_relational_loss_of_embeddings_that_coincide_is_zero_whatever_the_rounding():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(1, 4, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    same = np.repeat(vectors, 64, axis=0)
    assert float(relational_loss(tf.constant(same))) == 0
    moved = same + 1e-2 * random.normal(size=same.shape).astype(np.float32)
    in_float64 = float(relational_loss(tf.constant(moved, tf.float64)))
    np.testing.assert_allclose(relational_loss(tf.constant(moved)), in_float64, rtol=1e-3)


def test_relational_loss_ignores_rotations_of_a_tasks_embeddings():
    e = unit(6, 1, 5)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    both = tf.constant(np.concatenate([e, e @ turn], axis=1))
    assert float(relational_loss(both)) < 1e-20
    assert float(triplet_loss(both, 0.2)) > 0.1


def nt_xent_by_loop(z, temperature):
    images = len(z)
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    losses = []
    for i in range(images):
        for view in range(2):
            total = sum(
                math.exp(z[i, view] @ z[k, other] / temperature)
                for k in range(images)
                for other in range(2)
                if (k, other) != (i, view)
            )
            positive = math.exp(z[i, view] @ z[i, 1 - view] / temperature)
            losses.append(-math.log(positive / total))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_equals_a_double_loop(temperature):
    z = np.random.default_rng(0).normal(size=(5, 2, 3)) * 4
    found, gradient = value_and_gradient(lambda x: nt_xent(x, temperature), z)
    np.testing.assert_allclose(found, nt_xent_by_loop(z, temperature), rtol=1e-9)
    slope = differences(lambda x: nt_xent_by_loop(x, temperature), z)
    assert relative_error(gradient, slope) < 1e-6


def test_partners_are_found_by_cosine():
    z = np.zeros((3, 2, 3))
    z[:, 0] = np.eye(3)
    z[:, 1] = [[5, 1, 0], [0, 0, 2], [0, 0.1, 0.3]]
    np.testing.assert_array_equal(finds_partner(tf.constant(z)), [True, False, False])


def test_normalised_vectors_and_the_zero_vector():
    x = np.array([[3.0, 4.0], [0.0, 0.0], [1e-3, 0.0]])
    with tf.GradientTape() as tape:
        tensor = tf.constant(x)
        tape.watch(tensor)
        found = normalised(tensor)
        total = tf.reduce_sum(found * [[1.0, 2.0]])
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [1, 0]])
    slope = tape.gradient(total, tensor)
    # (w - e (e . w)) / length
    np.testing.assert_allclose(slope, [[-0.064, 0.048], [0, 0], [0, 2e3]], atol=1e-12)
    assert normalised(tf.zeros([2, 3], tf.bfloat16)).dtype == tf.float32


LOSSES = {
    "triplet": lambda x: triplet_loss(x, 0.2),
    "relational": relational_loss,
    "nt_xent": lambda x: nt_xent(x, 0.1),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_always_finite(name, dtype):
    """For embeddings that are all equal, zero, pairwise equal, or of a single image."""
    row = unit(1, 1, 8).astype(dtype)
    cases = [
        np.tile(row, (5, 2, 1)),
        np.zeros((5, 2, 8), dtype),
        row.repeat(2, axis=1),
        np.tile(unit(3, 2, 8).astype(dtype), (2, 1, 1)),
    ]
    for h in cases:
        value, gradient = value_and_gradient(lambda x: LOSSES[name](normalised(x)), h)
        assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_effective_rank_of_known_spectra():
    random = np.random.default_rng(0)
    turned = np.linalg.qr(random.normal(size=(40, 40)))[0][:, :8]
    turned -= turned.mean(axis=0)
    left = np.linalg.qr(turned)[0]  # orthogonal columns of mean zero
    right = np.linalg.qr(random.normal(size=(8, 8)))[0]
    for values in ([1] * 8, [2, 2, 2, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0, 0], range(1, 9)):
        share = np.array([value for value in values if value]) / sum(values)
        expected = np.exp(-np.sum(share * np.log(share)))
        rows = left @ np.diag(values) @ right + 3  # the mean must not matter
        np.testing.assert_allclose(effective_rank(tf.constant(rows)), expected, rtol=1e-6)
        in_float32 = tf.constant(rows, tf.float32)
        np.testing.assert_allclose(effective_rank(in_float32), expected, rtol=1e-3)


def test_collapse_is_detected():
    e = np.stack([unit(50, 8), np.tile(unit(1, 8), (50, 1))]).astype(np.float32)
    spread, collapsed = effective_rank(tf.constant(e)).numpy()
    assert 6 < spread <= 8 and collapsed == 0
    spread, collapsed = deviation(tf.constant(e)).numpy()
    np.testing.assert_allclose(spread, e[0].std(axis=0).mean(), rtol=1e-5)
    assert collapsed < 1e-6
