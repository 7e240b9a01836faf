"""Jigsaw: predict the order of an image's shuffled tiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from plugins import option
from pretext.cropping import crops
from pretext.heads import cross_entropy, dense, is_correct, pooled
from pretext.registration import TASKS
from pretext.task import Images, Task, Views
from registry import UserError

FINE_FROM = 48
"""By default, images of at least this height and width are cut into 3x3 tiles, smaller ones into
2x2."""
SMALLEST_TILE = 8
"""Smaller tiles, in pixels per side, show too little to be put in order."""


def permutations(grid: int) -> np.ndarray:
    """Orders of ``grid x grid`` tiles, any two of which agree in at most one position.

    So the Hamming distance between two of the orders of n tiles is n - 1 or n. This set is the
    largest possible: at most n (n - 1) permutations can pairwise differ in n - 1 positions (Deza &
    Vanstone 1978), and that is the number of affine maps ``x -> a x + b``, a != 0, of the field of
    n elements. The tiles are the field's elements: tile ``grid u + v`` is ``u + v t`` with u, v
    modulo `grid`, and ``t^2`` is ``t + 1`` for grid 2 and -1 for grid 3.

    Args:
        grid: 2 or 3.

    Returns:
        int64 ``[n (n - 1), n]``: 12 orders of 4 tiles, or 72 of 9. The first is the identity.
    """
    constant, linear = {2: (1, 1), 3: (2, 0)}[grid]
    elements = np.arange(grid * grid)

    def sums(x: np.ndarray, y: int) -> np.ndarray:
        (u, v), (r, s) = divmod(x, grid), divmod(y, grid)
        return (u + r) % grid * grid + (v + s) % grid

    def products(x: np.ndarray, y: int) -> np.ndarray:
        (u, v), (r, s) = divmod(x, grid), divmod(y, grid)
        return (u * r + v * s * constant) % grid * grid + (u * s + v * r + v * s * linear) % grid

    one = grid
    factors = [one, *(a for a in elements[1:] if a != one)]
    return np.array([sums(products(elements, a), b) for a in factors for b in elements])


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles; all sizes in pixels.

    Attributes:
        grid: cells along each side of the image.
        cell: (height, width) of a cell.
        gap: by how much a tile is smaller than its cell.
        tile: (height, width) of a tile.
    """

    grid: int
    cell: tuple[int, int]
    gap: int
    tile: tuple[int, int]


def tiling(height: int, width: int, grid: int) -> Tiling:
    """How to cut images of one size into tiles.

    Raises:
        UserError: the tiles would be too small.
    """
    cell = height // grid, width // grid
    gap = max(1, min(cell) // 8)
    tile = cell[0] - gap, cell[1] - gap
    if min(tile) < SMALLEST_TILE:
        least = grid * (SMALLEST_TILE + 1)
        raise UserError(
            f"jigsaw: images of {height}x{width} pixels make tiles of {tile[0]}x{tile[1]}, but at "
            f"least {SMALLEST_TILE}x{SMALLEST_TILE} are needed: give images of at least "
            f"{least}x{least} or leave jigsaw out of the tasks"
        )
    return Tiling(grid, cell, gap, tile)


def shuffled_tiles(
    images: tf.Tensor, order: tf.Tensor, shift: tf.Tensor, tiles: Tiling, size: tuple[int, int]
) -> list[tf.Tensor]:
    """Cut the images into tiles and return these in a new order.

    Args:
        images: float32 ``[B, H, W, C]``.
        order: int32 ``[B, places]``, the tile at each position; tiles are numbered row by row.
        shift: float32 ``[B, places, 2]``, the tile's (row, column) within its cell, whole numbers
            from 0 to the gap.
        tiles: how to cut the images.
        size: (height, width) of the views, at least that of the tiles.

    Returns:
        For each position, float32 ``[B, *size, C]``.
    """
    row, column = (tf.cast(x, tf.float32) for x in (order // tiles.grid, order % tiles.grid))
    top = row * tiles.cell[0] + shift[..., 0]
    left = column * tiles.cell[1] + shift[..., 1]
    bottom, right = top + tiles.tile[0] - 1, left + tiles.tile[1] - 1
    boxes = tf.stack([top, left, bottom, right], axis=-1)
    return tf.unstack(crops(images, boxes, size), axis=1)


@TASKS.register("jigsaw")
class Jigsaw(Task):
    """Noroozi & Favaro, "Unsupervised learning of visual representations by solving jigsaw
    puzzles", ECCV 2016.

    The image is cut into cells. From each cell a tile is taken at a random position. It is smaller
    than the cell by an eighth (at least one pixel), so its border does not give away its neighbour.
    The encoder sees each tile separately; h is computed from the features of all tiles. The
    possible orders are those of `permutations`. Unlike in the paper, tiles are not normalised one
    by one, so their brightness and contrast may give an order away.

    Tiles smaller than the encoder's minimum size are enlarged to it.

    Args:
        tiles: tiles along each side of the image, 2 or 3. If not set, 2 for images below 48 pixels,
            else 3.
    """

    paper = "Noroozi & Favaro, ECCV 2016, arXiv 1603.09246"

    tiles: int | None = option(None, minimum=2, maximum=3)

    def _grid(self, images: Images) -> int:
        return self.tiles or (3 if min(images.shape[:2]) >= FINE_FROM else 2)

    def views(self, images: Images) -> Views:
        """The views are the shuffled tiles; the target is the order's number, int32 ``[B]``."""
        height, width, channels = images.shape
        tiles = tiling(height, width, self._grid(images))
        size = tuple(max(side, images.minimum_size) for side in tiles.tile)
        places = tiles.grid**2

        def make(batch: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
            orders = tf.constant(permutations(tiles.grid), tf.int32)
            number = tf.cast(uniform[:, 0] * orders.shape[0], tf.int32)
            shift = tf.floor(tf.reshape(uniform[:, 1:], [-1, places, 2]) * (tiles.gap + 1))
            return shuffled_tiles(batch, tf.gather(orders, number), shift, tiles, size), number

        return Views((*size, channels), draws=1 + 2 * places, make=make, count=places)

    def build(
        self, images: Images, feature_shape: Sequence[int], width: int
    ) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        grid = self._grid(images)
        return (
            dense("jigsaw_neck", grid**2 * feature_shape[-1], width),
            dense("jigsaw_head", width, len(permutations(grid))),
        )

    def embed(
        self, neck: keras.layers.Layer, features: Sequence[tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        return neck(tf.concat([pooled(maps) for maps in features], axis=1))

    def predict(self, head: keras.layers.Layer, h: tf.Tensor, training: bool = False) -> Any:
        """The logits of the orders, ``[B, orders]``."""
        return head(tf.nn.relu(h))

    def loss(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """The cross-entropy, averaged over the batch."""
        return cross_entropy(output, target)

    def score(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """1 if the predicted order is right, else 0."""
        return is_correct(output, target)
