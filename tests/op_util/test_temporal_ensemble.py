"""The temporal task ensemble's formulas against NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from op_util.temporal_ensemble import (
    contrastive_loss,
    ensemble,
    ensemble_distance,
    mean_per_image,
    ramp,
    updated,
)
from tests.reference import relative_error


def unit(*shape, seed=0):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_bias_correction_makes_a_mean_of_what_was_seen():
    """After n updates ``Z_t / (1 - a^n)`` weighs the k-th newest by a^k, weights that add up to 1;
    of equal embeddings it is that embedding whatever n."""
    decay, e = 0.7, unit(4, 3, 2, 5)
    memory = np.zeros((3, 2, 5))
    for n, now in enumerate(e, start=1):
        memory = updated(tf.constant(memory), tf.constant(now), decay).numpy()
        weights = np.array([decay ** (n - 1 - k) for k in range(n)])
        expected = np.tensordot(weights / weights.sum(), e[:n], 1)
        np.testing.assert_allclose(memory / (1 - decay**n), expected, rtol=1e-12)
        mean = expected.mean(axis=1)
        mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
        found = ensemble(tf.constant(memory), tf.fill([3, 1], n), decay)
        np.testing.assert_allclose(found, mean, rtol=1e-9)


def test_an_image_without_updates_has_a_zero_ensemble_and_nothing_gets_a_gradient():
    memory = tf.constant(np.stack([np.zeros((2, 4)), unit(2, 4)]))
    with tf.GradientTape() as tape:
        tape.watch(memory)
        found = ensemble(memory, tf.constant([[0], [3]]), 0.5)
        total = tf.reduce_sum(found)
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_allclose(np.linalg.norm(found[1]), 1)
    assert tape.gradient(total, memory) is None


def test_rows_of_one_image_are_averaged_to_exactly_equal_values():
    index = np.array([7, 3, 7, 9, 7, 3])
    values = np.random.default_rng(0).normal(size=(6, 2, 5)).astype(np.float32)
    found = mean_per_image(tf.constant(values), tf.constant(index)).numpy()
    for row in range(6):
        np.testing.assert_allclose(found[row], values[index == index[row]].mean(axis=0), rtol=1e-5)
    assert len(np.unique(found.reshape(6, -1), axis=0)) == 3


def contrastive_by_loop(e, z, is_known, index, temperature):
    losses = []
    for i in range(len(e)):
        if not is_known[i]:
            continue
        candidates = {index[j]: z[j] for j in range(len(e)) if is_known[j]}
        for t in range(e.shape[1]):
            total = sum(math.exp(e[i, t] @ row / temperature) for row in candidates.values())
            losses.append(-math.log(math.exp(e[i, t] @ z[i] / temperature) / total))
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(
    ("index", "known"),
    [
        ([4, 2, 9, 1], [True] * 4),
        ([4, 2, 9, 1], [True, False, True, True]),
        ([4, 2, 4, 1, 2], [True, True, True, True, True]),
        ([4, 2, 4, 1, 2], [True, False, True, True, False]),
        ([4, 2], [False, False]),
        ([5], [True]),
    ],
    ids=["all", "one is new", "repeated", "repeated and new", "all are new", "alone"],
)
def test_contrastive_loss_by_loop(index, known, temperature):
    e, rows = unit(len(index), 3, 6), unit(10, 6, seed=1)
    z = rows[index] * np.array(known)[:, None]
    tensor = tf.constant(e)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        found = contrastive_loss(
            tensor, tf.constant(z), tf.constant(known), tf.constant(index, tf.int64), temperature
        )
    expected = contrastive_by_loop(e, z, known, index, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)
    gradient = tape.gradient(found, tensor).numpy()
    slope = np.zeros_like(e)
    for place in np.ndindex(*e.shape):
        move = np.zeros_like(e)
        move[place] = 1e-6
        high, low = (
            contrastive_by_loop(e + sign * move, z, known, index, temperature) for sign in (1, -1)
        )
        slope[place] = (high - low) / 2e-6
    if np.any(slope):
        assert relative_error(gradient, slope) < 1e-6
    else:
        np.testing.assert_allclose(gradient, 0, atol=1e-12)
    assert not np.any(gradient[~np.array(known)])


def test_contrastive_loss_of_a_constant_embedding_is_that_of_guessing():
    """So a constant, the optimum of a squared distance, is none here."""
    e = np.tile(unit(1, 1, 6), (5, 2, 1))
    known, index = tf.fill([5], True), tf.range(5)
    found = contrastive_loss(tf.constant(e), tf.constant(e[:, 0]), known, index, 0.1)
    np.testing.assert_allclose(found, math.log(5))
    apart = np.repeat(np.eye(6)[:5, None], 2, axis=1)
    found = contrastive_loss(tf.constant(apart), tf.constant(apart[:, 0]), known, index, 0.1)
    assert float(found) < 1e-3


def test_distance_to_the_ensemble():
    e, z = unit(4, 3, 6), unit(4, 6, seed=1)
    known = [True, False, True, False]
    expected = np.mean([np.sum((e[i, t] - z[i]) ** 2) for i in (0, 2) for t in range(3)])
    tensors = tf.constant(e), tf.constant(z)
    np.testing.assert_allclose(ensemble_distance(*tensors, tf.constant(known)), expected)
    assert float(ensemble_distance(*tensors, tf.fill([4], False))) == 0


@pytest.mark.parametrize("epochs", [1, 10, 80])
def test_ramp(epochs):
    for epoch in range(3 * epochs):
        share = min(1, epoch / epochs)
        expected = 0 if epoch == 0 else 1.5 * math.exp(-5 * (1 - share) ** 2)
        np.testing.assert_allclose(ramp(tf.constant(epoch), epochs, 1.5), expected, rtol=1e-5)


def test_ramp_of_no_length_is_at_its_top_after_the_first_epoch():
    assert [float(ramp(tf.constant(epoch), 0, 2.0)) for epoch in range(3)] == [0, 2, 2]
