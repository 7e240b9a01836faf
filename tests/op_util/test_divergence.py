"""Divergences against SciPy."""

import numpy as np
import tensorflow as tf
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from op_util.divergence import (
    decoupled,
    kl_divergence,
    log_softmax_without,
    softened_divergence,
    transformed_divergence,
)


def test_kl_divergence_of_each_row():
    p, q = np.random.default_rng(0).dirichlet(np.ones(5), size=(2, 7))
    found = kl_divergence(tf.constant(np.log(p)), tf.constant(np.log(q)))
    np.testing.assert_allclose(found, entropy(p, q, axis=1), rtol=1e-9)


def test_excluded_classes():
    random = np.random.default_rng(1)
    logits, left_out = random.normal(size=(2, 6, 5)) * 9, random.random((6, 5)) < 0.4
    left_out[0], left_out[1] = True, False
    p, q = (log_softmax_without(tf.constant(z), tf.constant(left_out)) for z in logits)
    divergences = kl_divergence(p, q)
    assert divergences[0] == 0
    for i in range(1, 6):
        rest = ~left_out[i]
        theirs, ours = (log_softmax(z[i, rest]) for z in logits)
        np.testing.assert_allclose(p.numpy()[i, rest], theirs, atol=1e-12)
        assert not np.any(tf.exp(p[i])[~rest])
        expected = entropy(np.exp(theirs), np.exp(ours))
        np.testing.assert_allclose(divergences[i], expected, rtol=1e-9, atol=1e-12)


def test_gradient_is_finite():
    logits = tf.constant([[1e4, -1e4, 0.0]])
    for left_out in ([[True, False, False]], [[True, True, True]]):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = kl_divergence(
                log_softmax_without(-logits, tf.constant(left_out)),
                log_softmax_without(logits, tf.constant(left_out)),
            )
        assert np.all(np.isfinite(loss)) and np.all(np.isfinite(tape.gradient(loss, logits)))


def test_softened_divergence_is_that_of_softened_probabilities_times_the_temperature_squared():
    teacher, student = np.random.default_rng(2).normal(size=(2, 6, 5)) * 4
    found = softened_divergence(tf.constant(teacher), tf.constant(student), 3.0)
    p, q = softmax(teacher / 3, axis=1), softmax(student / 3, axis=1)
    np.testing.assert_allclose(found, 9 * np.mean(entropy(p, q, axis=1)), rtol=1e-9)


def test_transformed_divergence_is_that_of_a_power_of_the_teachers_probabilities():
    teacher, student = np.random.default_rng(3).normal(size=(2, 6, 5)) * 4
    found, total = transformed_divergence(tf.constant(teacher), tf.constant(student), 0.3)
    powers = softmax(teacher, axis=1) ** 0.3
    np.testing.assert_allclose(total, powers.sum(axis=1), rtol=1e-9)
    expected = entropy(powers, softmax(student, axis=1), axis=1)  # which makes them add up to 1
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_decoupled_parts_are_probabilities_with_and_without_the_target_class():
    logits = np.random.default_rng(4).normal(size=(6, 5)) * 4
    labels = np.array([0, 4, 2, 2, 1, 3])
    found = decoupled(tf.constant(logits), tf.one_hot(labels, 5, True, False, dtype=tf.bool))
    p = softmax(logits, axis=1)
    target = p[np.arange(6), labels]
    np.testing.assert_allclose(np.exp(found.target), target, rtol=1e-9)
    np.testing.assert_allclose(np.exp(found.others), 1 - target, rtol=1e-9)
    among = p / (1 - target)[:, None]
    among[np.arange(6), labels] = 0
    np.testing.assert_allclose(np.exp(found.among_others), among, rtol=1e-9)
