"""Jigsaw: tiles that are found again in the image, and orders far apart."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from pretext.tasks.jigsaw import permutations, tiling
from registry import UserError
from tests.pretext.examples import Example, images, uniform


@pytest.mark.parametrize(("grid", "count", "distance"), [(2, 12, 3), (3, 72, 8)])
def test_orders_are_permutations_far_apart(grid, count, distance):
    orders = permutations(grid)
    tiles = grid * grid
    assert orders.shape == (count, tiles)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(tiles), (count, 1)))
    distances = [np.sum(a != b) for i, a in enumerate(orders) for b in orders[:i]]
    assert min(distances) == distance
    # Each tile is at each place equally often: no place tells the order by itself.
    for place in range(tiles):
        np.testing.assert_array_equal(np.bincount(orders[:, place]), count // tiles)
    np.testing.assert_array_equal(orders[0], np.arange(tiles))


def test_no_larger_set_of_four_tiles_is_as_far_apart():
    """By search: no 13th order of 4 tiles differs from all the others in 3 places."""
    orders = permutations(2)
    for order in itertools.permutations(range(4)):
        agreeing = np.max(np.sum(orders == np.array(order), axis=1))
        assert agreeing == 4 or agreeing > 1


def found(tile, image):
    """Where in the image a tile is: the one place at which all pixels agree."""
    windows = np.lib.stride_tricks.sliding_window_view(image, tile.shape)[:, :, 0]
    (place,) = np.argwhere(np.all(np.abs(windows - tile) < 1e-6, axis=(2, 3, 4)))
    return tuple(place)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (47, 60, 3), (48, 50, 3)])
def test_tiles_put_back_are_the_image(shape):
    task = Example("jigsaw", shape)
    grid = 3 if min(shape[:2]) >= 48 else 2
    assert task.view_count == grid * grid
    x = images(30, shape)
    tiles, number = task.views(tf.constant(x), tf.constant(uniform(30, task)))
    orders = permutations(grid)[number.numpy()]
    cell = shape[0] // grid, shape[1] // grid
    shifts = set()
    for i in range(30):
        for place, tile in enumerate(tiles):
            top, left = found(tile[i].numpy(), x[i])
            row, column = divmod(orders[i, place], grid)
            down, right = top - row * cell[0], left - column * cell[1]
            # Inside of its cell, with a gap somewhere.
            assert 0 <= down <= cell[0] - tile.shape[1] and tile.shape[1] < cell[0]
            assert 0 <= right <= cell[1] - tile.shape[2] and tile.shape[2] < cell[1]
            shifts.add((down, right))
    gap = cell[0] - tiles[0].shape[1], cell[1] - tiles[0].shape[2]
    assert len(shifts) == (gap[0] + 1) * (gap[1] + 1)
    assert len(set(number.numpy())) > 5


def test_tiles_too_small_for_the_encoder_are_enlarged():
    task = Example("jigsaw", (32, 32, 3), minimum_size=16)
    assert tiling(32, 32, 2).tile == (14, 14) and task.view_shape == (16, 16, 3)
    x = images(5, (32, 32, 3))
    draws = tf.constant(uniform(5, task))
    large, number = task.views(tf.constant(x), draws)
    small, same = Example("jigsaw", (32, 32, 3)).views(tf.constant(x), draws)
    np.testing.assert_array_equal(number, same)
    for one, other in zip(large, small, strict=True):
        # Corner to corner, so the corners are the same.
        np.testing.assert_allclose(one[:, ::15, ::15], other[:, ::13, ::13], atol=1e-5)


def test_images_too_small_are_refused():
    Example("jigsaw", (18, 18, 3))
    with pytest.raises(UserError, match="tiles of 7x15.*at least 18x18"):
        Example("jigsaw", (17, 32, 3))


def test_h_depends_on_the_order_of_the_tiles():
    task = Example("jigsaw", (32, 32, 3))
    task.build((4, 4, 8), 16)
    random = np.random.default_rng(0)
    maps = [tf.constant(random.normal(size=(2, 4, 4, 8)), tf.float32) for _ in range(4)]
    assert np.max(np.abs(task.embed(maps) - task.embed(maps[::-1]))) > 0.01


@pytest.mark.parametrize("grid", [2, 3])
def test_the_number_of_tiles_can_be_set(grid):
    task = Example("jigsaw", (32, 32, 3), tiles=grid)
    assert task.view_count == grid**2
    with pytest.raises(UserError, match="tiles must be from 2 to 3"):
        Example("jigsaw", (32, 32, 3), tiles=4)
