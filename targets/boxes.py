"""Boxes as CenterNet learns them: a heat map of centres, sizes, offsets, and back.

Zhou, Wang and Kraehenbuehl, "Objects as points", 2019. Boxes are ``(left, top, right, bottom)``. A
grid of cells lies over the image; a centre belongs to the cell that it is in, and the offset says
where in the cell it is, from 0 to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

MINIMUM_OVERLAP = 0.7


def overlap_radius(height: float, width: float, overlap: float = MINIMUM_OVERLAP) -> float:
    """How far the corners of a box may be off, each on its own, for it to overlap with the box by
    an IoU of at least `overlap`, in the unit of its sides (Law & Deng, "CornerNet", 2018)."""
    total, area = height + width, height * width
    # (h - r)(w - r) >= 2 o / (1 + o) h w: moved as a whole
    moved = (total - math.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    # (h - 2 r)(w - 2 r) >= o h w: smaller at all sides
    smaller = (total - math.sqrt(total**2 - 4 * area * (1 - overlap))) / 4
    # h w >= o (h + 2 r)(w + 2 r): larger at all sides
    larger = (math.sqrt(total**2 + 4 * area * (1 - overlap) / overlap) - total) / 4
    return min(moved, smaller, larger)


@dataclass(frozen=True)
class CentreMaps:
    """What a detector is to say of an image, on a grid of h x w cells.

    Attributes:
        heat: float32 [h,w,classes], 1 at the centres, falling off around them as a Gaussian.
        sizes: float32 [h,w,2], (width, height) in cells where there is a centre.
        offsets: float32 [h,w,2], (right, down) of the cell's corner, in cells, likewise.
        centres: float32 [h,w], 1 where there is a centre.
    """

    heat: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    centres: np.ndarray


def encode(
    boxes: np.ndarray,
    labels: np.ndarray,
    *,
    image_size: tuple[int, int],
    grid: tuple[int, int],
    classes: int,
) -> CentreMaps:
    """The maps that say where the boxes of one image are.

    Args:
        boxes: [n,4] in pixels; of two whose centres are in one cell the later one counts for size
            and offset.
        labels: integers [n] in 0..classes-1.
        image_size: (height, width) in pixels.
        grid: (h, w), cells.
        classes: number of classes.
    """
    heat = np.zeros([*grid, classes], np.float32)
    sizes, offsets = np.zeros([*grid, 2], np.float32), np.zeros([*grid, 2], np.float32)
    centres = np.zeros(grid, np.float32)
    scale = np.array([grid[1] / image_size[1], grid[0] / image_size[0]])
    columns, rows = np.arange(grid[1]), np.arange(grid[0])[:, None]
    for box, label in zip(boxes, labels, strict=True):
        low, high = box[:2] * scale, box[2:] * scale
        centre, (width, height) = (low + high) / 2, high - low
        column, row = np.minimum(np.floor(centre).astype(int), [grid[1] - 1, grid[0] - 1])
        # Three deviations to either side are as wide as the radius allows.
        deviation = (2 * math.floor(overlap_radius(height, width)) + 1) / 6
        distance = (columns - column) ** 2 + (rows - row) ** 2
        bump = np.exp(-distance / (2 * deviation**2))
        heat[..., label] = np.maximum(heat[..., label], bump)
        sizes[row, column] = width, height
        offsets[row, column] = centre - [column, row]
        centres[row, column] = 1
    return CentreMaps(heat, sizes, offsets, centres)


@dataclass(frozen=True)
class Found:
    """What was found in one image, the surest first.

    Attributes:
        boxes: float32 [n,4] in pixels.
        labels: int32 [n].
        scores: float32 [n] in 0..1.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def decode(
    heat: np.ndarray,
    sizes: np.ndarray,
    offsets: np.ndarray,
    *,
    image_size: tuple[int, int],
    most: int = 100,
) -> list[Found]:
    """The boxes at the peaks of the heat map: cells that no neighbour of their class exceeds.

    Args:
        heat: [B,h,w,classes] in 0..1.
        sizes, offsets: [B,h,w,2], see `CentreMaps`.
        image_size: (height, width) in pixels; boxes are cut at the image's edges.
        most: peaks to keep of an image.
    """
    batch, height, width, classes = heat.shape
    peaks = heat == tf.nn.max_pool2d(heat, 3, 1, "SAME").numpy()
    scores = np.where(peaks, heat, 0).reshape(batch, -1)
    kept = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    scale = np.array([image_size[1] / width, image_size[0] / height] * 2)
    limits = [image_size[1], image_size[0]] * 2
    found = []
    for image, places in enumerate(kept):
        rows, columns, labels = np.unravel_index(places, (height, width, classes))
        centre = np.stack([columns, rows], 1) + offsets[image, rows, columns]
        half = sizes[image, rows, columns] / 2
        boxes = np.concatenate([centre - half, centre + half], 1) * scale
        found.append(Found(
            np.clip(boxes, 0, limits).astype(np.float32),
            labels.astype(np.int32),
            scores[image, places].astype(np.float32),
        ))
    return found
