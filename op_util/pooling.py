"""Resize feature maps; averages and nearest neighbours exactly as PyTorch computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf


def adaptive_average_pool(maps: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Average over a grid of cells, which overlap if the map's size is no multiple of the grid's.

    Row i of h is the mean of the rows from ``floor(i H / h)`` up to, but not including,
    ``ceil((i + 1) H / h)``; columns likewise. If the map is smaller than `size`, positions repeat.

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
    """The first and last (exclusive) row of each of `cells` cells of a map with `size` rows.

    The cells overlap if `size` is not a multiple of `cells`.
    """
    return [(i * size // cells, -(-(i + 1) * size // cells)) for i in range(cells)]


def nearest(maps: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resize maps: row i of h is the row ``floor(i H / h)`` of H; columns likewise.

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


def resized(maps: Any, size: Sequence[int], *, up: Literal["bilinear", "repeat"]) -> Any:
    """Bring maps to a size: averaged where it divides theirs, else interpolated with antialiasing.

    Args:
        maps: ``[B, H, W, D]``, real or symbolic, H and W known; what has `size` already, as vectors
            ``[B, D]`` have ``()``, stays as it is.
        size: ``(h, w)``.
        up: ``"repeat"``: positions are repeated where the maps' size divides `size`.

    Returns:
        ``[B, h, w, D]`` in the dtype of `maps`.
    """
    own, size = tuple(maps.shape[1:-1]), tuple(size)
    if own == size:
        return maps
    if all(one % other == 0 for one, other in zip(own, size, strict=True)):
        cell = tuple(one // other for one, other in zip(own, size, strict=True))
        return keras.ops.average_pool(maps, cell, cell, "valid", "channels_last")
    repeats = up == "repeat" and all(
        other % one == 0 for one, other in zip(own, size, strict=True)
    )
    found = keras.ops.image.resize(
        maps, size, "nearest" if repeats else "bilinear", antialias=not repeats,
        data_format="channels_last",
    )
    return found if found.dtype == maps.dtype else keras.ops.cast(found, maps.dtype)
