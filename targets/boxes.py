"""Encode boxes as CenterNet's training targets (heat map, sizes, offsets), and decode them.

Zhou, Wang and Kraehenbuehl, "Objects as points", 2019. Boxes are ``(left, top, right, bottom)``.
The image is divided into a grid of cells. A box's centre belongs to the cell that contains it; its
offset is the position within that cell, from 0 to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

MINIMUM_OVERLAP = 0.7


def overlap_radius(height: float, width: float, overlap: float = MINIMUM_OVERLAP) -> float:
    """How far each corner of a box may move while the IoU with the box stays at least `overlap`.

    In the unit of the sides (Law & Deng, "CornerNet", 2018).
    """
    total, area = height + width, height * width
    # The whole box is shifted: (h - r)(w - r) >= 2 o / (1 + o) h w
    moved = (total - math.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    # The box shrinks on all sides: (h - 2 r)(w - 2 r) >= o h w
    smaller = (total - math.sqrt(total**2 - 4 * area * (1 - overlap))) / 4
    # The box grows on all sides: h w >= o (h + 2 r)(w + 2 r)
    larger = (math.sqrt(total**2 + 4 * area * (1 - overlap) / overlap) - total) / 4
    return min(moved, smaller, larger)


@dataclass(frozen=True)
class CentreMaps:
    """A detector's training targets for one image, on a grid of h x w cells.

    Attributes:
        heat: float32 [h,w,classes], 1 at the centres and a Gaussian around them.
        sizes: float32 [h,w,2], (width, height) in cells; 0 in cells without a centre.
        offsets: float32 [h,w,2], the centre's (x, y) from the cell's top left corner, in cells; 0
            in cells without a centre.
        centres: float32 [h,w], 1 in cells with a centre, else 0.
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
    """Encode the boxes of one image.

    Args:
        boxes: [n,4] in pixels. If two centres fall in the same cell, the later box sets its size
            and offset.
        labels: integers [n] in 0..classes-1.
        image_size: (height, width) in pixels.
        grid: (h, w) in cells.
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
        # The Gaussian's radius is three standard deviations.
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
    """The detections in one image, most confident first.

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
    """Decode the boxes at the peaks of the heat map.

    A peak is a cell that no neighbour exceeds in the same class.

    Args:
        heat: [B,h,w,classes] in 0..1.
        sizes, offsets: [B,h,w,2], see `CentreMaps`.
        image_size: (height, width) in pixels. Boxes are clipped to the image.
        most: how many peaks to keep per image.
    """
    batch, height, width, classes = heat.shape
    peaks = heat == tf.nn.max_pool2d(heat, 3, 1, "SAME").numpy()
    scores = np.where(peaks, heat, -1).reshape(batch, -1)
    kept = np.argsort(-scores, axis=1, kind="stable")[:, :most]
    scale = np.array([image_size[1] / width, image_size[0] / height] * 2)
    limits = [image_size[1], image_size[0]] * 2
    found = []
    for image, places in enumerate(kept):
        places = places[scores[image, places] >= 0]
        rows, columns, labels = np.unravel_index(places, (height, width, classes))
        centre = np.stack([columns, rows], 1) + offsets[image, rows, columns]
        # A network may predict a negative size: COCO ignores boxes of negative area.
        half = np.maximum(sizes[image, rows, columns], 0) / 2
        boxes = np.concatenate([centre - half, centre + half], 1) * scale
        found.append(Found(
            np.clip(boxes, 0, limits).astype(np.float32),
            labels.astype(np.int32),
            scores[image, places].astype(np.float32),
        ))
    return found
