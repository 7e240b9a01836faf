"""Jigsaw: in which order an image's tiles lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from pretext.cropping import crops
from pretext.heads import cross_entropy, dense, is_correct, pooled
from pretext.registration import register
from pretext.task import Task
from registry import UserError

FINE_FROM = 48
"""Images of at least so many pixels a side are cut into 3x3 tiles, smaller ones into 2x2."""
SMALLEST_TILE = 8
"""Tiles of fewer pixels a side show too little to be put in order."""


def permutations(grid: int) -> np.ndarray:
    """Orders of ``grid x grid`` tiles of which any two agree in one place at most.

    Hamming distances are thus n - 1 or n for n tiles, and no larger set has that: at most n (n - 1)
    permutations can differ in n - 1 places pairwise (Deza & Vanstone 1978), and the affine maps ``x
    -> a x + b``, a != 0, of the field of n elements are as many. The tiles are the field: tile
    ``grid u + v`` is ``u + v t`` with u, v modulo `grid`, and ``t^2`` is ``t + 1`` for 2 and -1
    for 3.

    Args:
        grid: 2 or 3.

    Returns:
        int64 ``[n (n - 1), n]``: 12 orders of 4 tiles, 72 of 9. The first is the identity.
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


@register("jigsaw")
@dataclasses.dataclass(eq=False)
class Jigsaw(Task):
    """Noroozi & Favaro, "Unsupervised learning of visual representations by solving jigsaw
    puzzles", ECCV 2016.

    The image is cut into 2x2 cells below 48 pixels, into 3x3 from there on. Of each cell a tile is
    shown that is smaller by an eighth (one pixel at least), at a random place in the cell, so that
    its border does not tell what comes next to it. The encoder sees each tile by itself; h is made
    of the features of all of them. The orders are those of `permutations`.

    Tiles smaller than what the encoder takes are enlarged to it.
    """

    paper = "Noroozi & Favaro, ECCV 2016, arXiv 1603.09246"

    def check(self) -> None:
        height, width, _ = self.image_shape
        self.grid = 3 if min(height, width) >= FINE_FROM else 2
        self._cell = height // self.grid, width // self.grid
        self._gap = max(1, min(self._cell) // 8)
        self.tile = tuple(side - self._gap for side in self._cell)
        if min(self.tile) < SMALLEST_TILE:
            least = self.grid * (SMALLEST_TILE + 1)
            raise UserError(
                f"jigsaw: images of {height}x{width} pixels make tiles of "
                f"{self.tile[0]}x{self.tile[1]}, and at least {SMALLEST_TILE}x{SMALLEST_TILE} are "
                f"needed: give images of at least {least}x{least} or leave jigsaw out of the tasks"
            )
        self._orders = tf.constant(permutations(self.grid), tf.int32)

    @property
    def view_count(self) -> int:
        return self.grid**2

    @property
    def view_shape(self) -> tuple[int, int, int]:
        height, width = (max(side, self.minimum_size) for side in self.tile)
        return height, width, self.image_shape[-1]

    @property
    def draws(self) -> int:
        return 1 + 2 * self.view_count

    def views(self, images: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The tiles in a new order; the order's number, int32 ``[B]``.

        Place k shows the tile ``permutations(grid)[order][k]`` of the image, counted by rows.
        """
        number = tf.cast(uniform[:, 0] * self._orders.shape[0], tf.int32)
        tile = tf.gather(self._orders, number)  # [B, places]
        shift = tf.floor(tf.reshape(uniform[:, 1:], [-1, self.view_count, 2]) * (self._gap + 1))
        row, column = (tf.cast(x, tf.float32) for x in (tile // self.grid, tile % self.grid))
        top = row * self._cell[0] + shift[..., 0]
        left = column * self._cell[1] + shift[..., 1]
        bottom, right = top + self.tile[0] - 1, left + self.tile[1] - 1
        boxes = tf.stack([top, left, bottom, right], axis=-1)
        tiles = crops(images, boxes, self.view_shape[:2])
        return tf.unstack(tiles, axis=1), number

    def build(self, feature_shape: Sequence[int], width: int) -> None:
        self._neck = dense("jigsaw_neck", self.view_count * feature_shape[-1], width)
        self._head = dense("jigsaw_head", width, self._orders.shape[0])
        self.layers = [self._neck, self._head]

    def embed(self, features: Sequence[tf.Tensor], training: bool = False) -> tf.Tensor:
        return self._neck(tf.concat([pooled(maps) for maps in features], axis=1))

    def predict(self, h: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits of the orders, ``[B, orders]``."""
        return self._head(tf.nn.relu(h))

    def loss(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """The cross-entropy, mean over the batch."""
        return cross_entropy(output, target)

    def score(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """1 where the order is found, else 0."""
        return is_correct(output, target)
