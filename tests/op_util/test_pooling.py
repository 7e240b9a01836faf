"""Resizing of feature maps against plain loops."""

import math

import numpy as np
import pytest
import tensorflow as tf

from op_util.pooling import adaptive_average_pool, cell_bounds, nearest

SIZES = [(8, 6, 4, 3), (7, 5, 4, 2), (4, 4, 1, 1), (2, 3, 4, 6), (3, 5, 5, 7), (4, 6, 4, 6)]


@pytest.mark.parametrize("sizes", SIZES)
def test_against_loops(sizes):
    height, width, rows, columns = sizes
    maps = np.random.default_rng(0).normal(size=(2, height, width, 3))
    averaged = np.empty((2, rows, columns, 3))
    sampled = np.empty_like(averaged)
    for i in range(rows):
        for j in range(columns):
            cell = maps[
                :,
                math.floor(i * height / rows) : math.ceil((i + 1) * height / rows),
                math.floor(j * width / columns) : math.ceil((j + 1) * width / columns),
            ]
            averaged[:, i, j] = cell.mean(axis=(1, 2))
            sampled[:, i, j] = maps[:, math.floor(i * height / rows), j * width // columns]
    found = adaptive_average_pool(tf.constant(maps), (rows, columns))
    np.testing.assert_allclose(found, averaged, rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(nearest(tf.constant(maps), (rows, columns)), sampled)


def test_cell_bounds():
    assert cell_bounds(6, 3) == [(0, 2), (2, 4), (4, 6)]
    assert cell_bounds(7, 3) == [(0, 3), (2, 5), (4, 7)]
