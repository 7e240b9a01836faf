import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from op_util.draws import uniform_draws

MASK = 2**32 - 1


def mixed(word):
    word ^= word >> 16
    word = word * 0x21F0AAAD & MASK
    word ^= word >> 15
    word = word * 0x735A2D97 & MASK
    return word ^ word >> 15


def by_hand(seed, stream, epoch, index, draws):
    state = 0x5EED
    for number in (seed, stream, epoch, index):
        for half in (number & MASK, number >> 32 & MASK):
            state = mixed(state ^ half)
    return [(mixed(mixed(state ^ place)) >> 8) / 2**24 for place in range(1, draws + 1)]


@pytest.mark.parametrize("seed, epoch", [(0, 0), (7, 3), (2**32 - 1, 10**6)])
def test_numbers_equal_a_computation_with_python_integers(seed, epoch):
    index = [0, 1, 5, 2**31 + 3, 2**40 + 1]
    found = uniform_draws(seed, 4, epoch, tf.constant(index, tf.int64), 6)
    assert found.dtype == tf.float32
    expected = [by_hand(seed, 4, epoch, each, 6) for each in index]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_an_image_keeps_its_numbers_in_any_batch():
    whole = uniform_draws(3, 1, 2, tf.range(50), 8).numpy()
    part = tf.function(uniform_draws)(3, 1, tf.constant(2), tf.constant([17, 4, 17], tf.int32), 8)
    np.testing.assert_array_equal(part, whole[[17, 4, 17]])


def test_numbers_are_uniform_and_independent():
    epochs = np.stack([uniform_draws(0, 0, epoch, tf.range(4000), 5) for epoch in range(2)])
    other = uniform_draws(0, 1, 0, tf.range(4000), 5).numpy()
    for column in epochs.reshape(-1, 5).T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    numbers = np.concatenate([*epochs, other], axis=1).T  # 15 variables of 4000 images
    neighbours = np.concatenate([numbers[:, :-1], numbers[:, 1:]])
    correlations = np.corrcoef(neighbours) - np.eye(30)
    correlations[np.arange(15), np.arange(15) + 15] = 0  # checked with the rest, below
    assert np.abs(correlations).max() < 0.08
    assert max(abs(np.corrcoef(row[:-1], row[1:])[0, 1]) for row in numbers) < 0.08
    assert numbers.min() >= 0 and numbers.max() < 1
    assert len(np.unique(numbers)) > 0.99 * numbers.size
