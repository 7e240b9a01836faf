"""Encoding boxes as heat maps, and decoding them."""

import itertools

import numpy as np
import pytest

from dataloader import SceneSplit
from targets.average_precision import average_precision
from targets.boxes import decode, encode, overlap_radius

SIZE, GRID, CLASSES = (48, 64), (12, 16), 3


def overlap(one, other):
    """IoU of two boxes (left, top, right, bottom)."""
    sides = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1)]
    common = max(0, sides[0]) * max(0, sides[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return common / (sum(areas) - common)


def boxes(random, count):
    """Boxes with centres in different cells that do not touch."""
    cells = random.permutation([*itertools.product(range(1, 12, 2), range(1, 16, 2))])[:count]
    centres = (cells[:, ::-1] + random.random([count, 2])) * 4
    half = np.minimum(random.uniform(1, 9, [count, 2]), np.minimum(centres, [64, 48] - centres))
    return np.concatenate([centres - half, centres + half], 1).astype(np.float32)


@pytest.mark.parametrize("sides", [(10, 10), (3, 17), (40, 8)])
def test_the_radius_is_the_largest_that_keeps_the_overlap(sides):
    height, width = sides
    radius = overlap_radius(height, width)
    box = (0, 0, width, height)

    def least(by):
        moves = itertools.product((-by, 0, by), repeat=4)
        return min(overlap(box, np.add(box, move)) for move in moves)

    assert least(radius) == pytest.approx(0.7, abs=1e-6)
    assert least(1.02 * radius) < 0.7


def test_decoding_inverts_encoding():
    random = np.random.default_rng(0)
    for count in (1, 4, 9):
        true, labels = boxes(random, count), random.integers(CLASSES, size=count)
        maps = encode(true, labels, image_size=SIZE, grid=GRID, classes=CLASSES)
        # Only peaks are 1; their neighbours are lower.
        found, = decode(
            maps.heat[None], maps.sizes[None], maps.offsets[None], image_size=SIZE
        )
        sure = found.scores == 1
        order, expected = np.lexsort(found.boxes[sure].T), np.lexsort(true.T)
        np.testing.assert_allclose(found.boxes[sure][order], true[expected], atol=1e-4)
        np.testing.assert_array_equal(found.labels[sure][order], labels[expected])
        assert maps.centres.sum() == count


def test_the_heat_map_equals_a_loop():
    true = np.array([[4, 4, 28, 20], [10, 6, 40, 22]], np.float32)
    maps = encode(true, np.array([1, 1]), image_size=SIZE, grid=GRID, classes=CLASSES)
    expected = np.zeros([*GRID, CLASSES])
    for left, top, right, bottom in true / 4:
        cell = int((left + right) / 2), int((top + bottom) / 2)
        deviation = (2 * int(overlap_radius(bottom - top, right - left)) + 1) / 6
        for row, column in np.ndindex(*GRID):
            distance = (column - cell[0]) ** 2 + (row - cell[1]) ** 2
            value = np.exp(-distance / 2 / deviation**2)
            expected[row, column, 1] = max(expected[row, column, 1], value)
    np.testing.assert_allclose(maps.heat, expected, atol=1e-6)
    np.testing.assert_allclose(maps.sizes[3, 4], [6, 4])
    np.testing.assert_allclose(maps.offsets[3, 4], [0, 0])


def test_no_box_and_a_box_at_the_edge():
    empty = encode(np.zeros([0, 4]), np.zeros(0, int), image_size=SIZE, grid=GRID, classes=2)
    assert not empty.heat.any() and not empty.centres.any()
    corner = np.array([[62, 46, 66, 50]])
    edge = encode(corner, np.array([0]), image_size=SIZE, grid=GRID, classes=2)
    assert edge.centres[11, 15] == 1


def test_peaks_are_sorted_by_score_and_boxes_clipped_to_the_image():
    heat = np.zeros([1, *GRID, 2], np.float32)
    heat[0, 5, 5], heat[0, 5, 6] = [0.9, 0.3], [0.8, 0.4]  # in class 0 the left one is the peak
    heat[0, 0, 0, 0] = 0.5
    sizes = np.full([1, *GRID, 2], 4, np.float32)
    found, = decode(heat, sizes, np.zeros([1, *GRID, 2], np.float32), image_size=SIZE, most=3)
    np.testing.assert_allclose(found.scores, [0.9, 0.5, 0.4])
    np.testing.assert_array_equal(found.labels, [0, 0, 1])
    np.testing.assert_allclose(found.boxes[1], [0, 0, 8, 8])
    np.testing.assert_allclose(found.boxes[2], [16, 12, 32, 28])


def test_cells_that_are_no_peaks_are_not_found():
    heat = np.full([1, *GRID, 1], 0.1, np.float32)
    heat[0, ::2, ::2] = 0.2
    found, = decode(heat, heat, heat, image_size=SIZE)
    assert len(found.scores) == 6 * 8 and (found.scores == np.float32(0.2)).all()


def test_predicted_sizes_below_zero_are_false_positives():
    heat, sizes = np.zeros([1, *GRID, 1], np.float32), np.full([1, *GRID, 2], 4, np.float32)
    heat[0, 2, 2], heat[0, 8, 8] = 0.9, 0.5
    sizes[0, 2, 2] = -4, 4
    found, = decode(heat, sizes, np.zeros([1, *GRID, 2]), image_size=SIZE, most=2)
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()
    truth = SceneSplit(
        np.zeros([1, *SIZE, 3], np.uint8), boxes=[np.array([[24, 24, 40, 40]], np.float32)],
        labels=[np.array([0])], difficult=[np.array([False])],
    )
    assert average_precision(truth, [found], 1)["map_50"] == pytest.approx(0.5)
