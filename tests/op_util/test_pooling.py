"""Resizing of feature maps against plain loops."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from op_util.pooling import adaptive_average_pool, cell_bounds, nearest, resized

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


def test_resized_averages_or_repeats_where_one_size_divides_the_other():
    maps = np.random.default_rng(1).normal(size=(2, 4, 6, 3))
    for up in ("repeat", "bilinear"):
        assert resized(maps, (4, 6), up=up) is maps
        averaged = resized(tf.constant(maps), (2, 2), up=up)
        expected = maps.reshape(2, 2, 2, 2, 3, 3).mean(axis=(2, 4))
        np.testing.assert_allclose(averaged, expected, rtol=1e-12)
    repeated = resized(tf.constant(maps), (8, 12), up="repeat")
    np.testing.assert_array_equal(repeated, maps.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resized_interpolates_between_the_middles_of_pixels(dtype):
    """From two pixels to four, also where positions could be repeated; and from two to three."""
    maps = np.array([0.0, 1.0], dtype).reshape(1, 2, 1, 1)
    for up, size, expected in (
        ("bilinear", 4, [0, 0.25, 0.75, 1]), ("bilinear", 3, [0, 0.5, 1]),
        ("repeat", 3, [0, 0.5, 1]),
    ):
        found = resized(tf.constant(maps), (size, 1), up=up)
        assert found.dtype == dtype
        np.testing.assert_allclose(found[0, :, 0, 0], expected, atol=1e-6)


def test_resized_of_symbolic_maps():
    for size in ((2, 2), (8, 12), (3, 5)):
        found = resized(keras.KerasTensor((None, 4, 6, 3)), size, up="repeat")
        assert found.shape == (None, *size, 3)
