"""Divergences against SciPy."""

import numpy as np
import tensorflow as tf
from scipy.special import log_softmax
from scipy.stats import entropy

from op_util.divergence import kl_divergence, log_softmax_without


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
