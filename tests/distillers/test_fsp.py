"""FSP against a plain loop; the original's golden values are in test_sskd_svd."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from distillers import FSP
from distillers.fsp import fsp_matrix
from registry import UserError


def by_loop(top, bottom):
    """One sample's ``sum over positions of top_i bottom_j / positions``."""
    if top.shape[0] > bottom.shape[0]:
        rows, columns = -(-top.shape[0] // 2), -(-top.shape[1] // 2)
        pooled = np.empty((rows, columns, top.shape[2]))
        for y in range(rows):
            for x in range(columns):
                pooled[y, x] = top[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].max(axis=(0, 1))
        top = pooled
    found = np.zeros((top.shape[2], bottom.shape[2]))
    for y in range(bottom.shape[0]):
        for x in range(bottom.shape[1]):
            found += np.outer(top[y, x], bottom[y, x])
    return found / (bottom.shape[0] * bottom.shape[1])


def maps_of(seed):
    random = np.random.default_rng(seed)
    return [random.normal(size=(3, *shape)) for shape in ((6, 8, 4), (3, 4, 5), (3, 4, 7), (9,))]


def test_matrix():
    maps = maps_of(0)
    for top, bottom in ((0, 1), (1, 2)):
        found = fsp_matrix(tf.constant(maps[top]), tf.constant(maps[bottom]))
        for i in range(3):
            np.testing.assert_allclose(found[i], by_loop(maps[top][i], maps[bottom][i]), rtol=1e-9)


def test_loss():
    teacher, student = maps_of(1), maps_of(2)
    total = 0.0
    for pair in (0, 1):
        for i in range(3):
            ours = by_loop(student[pair][i], student[pair + 1][i])
            theirs = by_loop(teacher[pair][i], teacher[pair + 1][i])
            total += np.sum((ours - theirs) ** 2) / 2 / 3
    found = FSP().compute_loss(*([tf.constant(x) for x in maps] for maps in (teacher, student)))
    np.testing.assert_allclose(found, total / (4 * 5 + 5 * 7), rtol=1e-9)


def test_two_maps_are_needed():
    with pytest.raises(UserError, match="FSP needs .* at least 2: the teacher has 1"):
        FSP().build(*[[tf.zeros([1, 4, 4, 3]), tf.zeros([1, 9])]] * 2)


@pytest.mark.parametrize(
    ("top", "bottom"), [((8, 8, 3), (2, 2, 5)), ((4, 4, 3), (8, 8, 5)), ((5, 5, 3), (2, 2, 4))]
)
def test_maps_whose_sizes_do_not_pair_are_refused(top, bottom):
    taps = [keras.Input(top), keras.Input(bottom)]
    with pytest.raises(UserError, match="taps 1 and 2 of the teacher"):
        FSP().build(taps, taps)
