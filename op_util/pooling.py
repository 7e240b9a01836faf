"""Feature maps brought to another height and width, as the papers' PyTorch code does it."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def adaptive_average_pool(maps: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Averages over a grid of `size` cells, which overlap where the size does not divide.

    Row i of h is the mean of the rows ``floor(i H / h)`` to ``ceil((i + 1) H / h)`` of H, and so
    for the columns. A map that is smaller than `size` gets its positions repeated.

    Args:
        maps: ``[B, H, W, D]``, H and W known.
        size: ``(h, w)``.

    Returns:
        ``[B, h, w, D]``.
    """
    own = tuple(maps.shape[1:3])
    if own == tuple(size):
        return maps
    if all(one % other == 0 for one, other in zip(own, size, strict=True)):
        cell = [one // other for one, other in zip(own, size, strict=True)]
        return tf.nn.avg_pool2d(maps, cell, cell, "VALID")
    rows, columns = (
        tf.constant(_averages(one, other), maps.dtype)
        for one, other in zip(own, size, strict=True)
    )
    return tf.einsum("ih,bhwd,jw->bijd", rows, maps, columns)


def _averages(size: int, cells: int) -> np.ndarray:
    """The matrix ``[cells, size]`` that averages within cells."""
    found = np.zeros((cells, size))
    for i, (first, last) in enumerate(cell_bounds(size, cells)):
        found[i, first:last] = 1 / (last - first)
    return found


def cell_bounds(size: int, cells: int) -> list[tuple[int, int]]:
    """First and last (exclusive) of the rows in each of `cells` cells of a map of `size` rows; they
    overlap where the size does not divide."""
    return [(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]


def nearest(maps: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Maps resized by taking, for row i of h, the row ``floor(i H / h)`` of H, and so for columns.

    Args:
        maps: ``[B, H, W, D]``, H and W known.
        size: ``(h, w)``.

    Returns:
        ``[B, h, w, D]``.
    """
    for axis, cells in zip((1, 2), size, strict=True):
        own = maps.shape[axis]
        if own == cells:
            continue
        if cells % own == 0:
            maps = tf.repeat(maps, cells // own, axis=axis)
        else:
            maps = tf.gather(maps, [i * own // cells for i in range(cells)], axis=axis)
    return maps
