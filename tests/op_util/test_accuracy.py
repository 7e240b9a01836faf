"""Top-k hits against a stable sort in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from op_util.accuracy import agreements, top_k_hits


def expected(logits, labels, k):
    order = np.argsort(-logits.astype(np.float64), axis=1, kind="stable")
    return np.any(order[:, :k] == labels[:, None], axis=1)


@pytest.mark.parametrize("k", [1, 2, 5, 10, 11])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16, tf.float64])
def test_ranks_equal_a_stable_sort_with_many_ties(dtype, k):
    random = np.random.default_rng(0)
    logits = random.integers(-3, 4, [400, 10]) / 2
    logits[random.random(logits.shape) < 0.05] = -np.inf
    labels = random.integers(0, 10, 400)
    hits = top_k_hits(tf.constant(logits, dtype), tf.constant(labels, tf.int32), k)
    np.testing.assert_array_equal(hits, expected(logits, labels, k))
    if k == 1:
        np.testing.assert_array_equal(hits, np.argmax(logits, axis=1) == labels)


def test_equal_logits_are_a_hit_for_the_first_class_only():
    labels = tf.range(200) % 10
    for k in (1, 5):
        assert np.mean(top_k_hits(tf.zeros([200, 10]), labels, k)) == pytest.approx(k / 10)


def test_values_that_differ_only_in_float64_are_ties():
    logits = tf.constant([[1.0, 1.0 + 1e-12]], tf.float64)
    assert top_k_hits(logits, tf.constant([1]), 1)[0] == 0


def test_nan_logits_and_unknown_labels_are_never_hits():
    logits = tf.constant([[1.0, np.nan, 0.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 1.0, np.inf]])
    hits = top_k_hits(logits, tf.constant([0, -1, 3, 2], tf.int64), 5)
    np.testing.assert_array_equal(hits, [0, 0, 0, 1])


def test_empty_batches_and_k_below_one():
    assert top_k_hits(tf.zeros([0, 3]), tf.zeros([0], tf.int32), 1).shape == (0,)
    with pytest.raises(ValueError, match="k is 0"):
        top_k_hits(tf.zeros([1, 3]), tf.constant([0]), 0)


def test_agreements_are_equal_argmaxes_and_nan_agrees_with_nothing():
    random = np.random.default_rng(1)
    logits, others = random.integers(-2, 3, [2, 300, 4]) / 2
    expected = np.argmax(logits, axis=1) == np.argmax(others, axis=1)
    logits[:3, 0], others[2:5, 1] = np.nan, np.nan
    expected[:5] = False
    found = agreements(tf.constant(logits, tf.bfloat16), tf.constant(others, tf.float32))
    np.testing.assert_array_equal(found, expected)
    assert 0.2 < expected.mean() < 0.5
