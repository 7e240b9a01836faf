"""WKD_F: the Wasserstein distance between the Gaussians that describe the channels of two maps."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from distillers.adapters import linear
from distillers.loss import Combination, Context, Loss
from distillers.method import Method
from distillers.reading import LastMap, as_taps, size_text
from distillers.registration import register
from nets.layers import batch_normalization
from op_util.pooling import cell_bounds
from plugins import option
from registry import UserError

EPSILON = 1e-5  # added to variances


def gaussian(cell: tf.Tensor) -> tf.Tensor:
    """Mean and standard deviation of each channel over the positions of ``cell [B, h, w, D]``, the
    variance unbiased: ``[2, B, D]``."""
    positions = cell.shape[1] * cell.shape[2]
    mean, variance = tf.nn.moments(cell, axes=[1, 2])
    return tf.stack([mean, tf.sqrt(variance * positions / (positions - 1) + EPSILON)])


def gaussian_distances(teacher: tf.Tensor, student: tf.Tensor, grid: int) -> tf.Tensor:
    """``||mean_s - mean_t||^2`` and ``||deviation_s - deviation_t||^2``, means over the batch and
    over the cells of a grid: ``[2]``. Their sum is the squared Wasserstein distance of two
    Gaussians of diagonal covariance.

    Args:
        teacher, student: maps ``[B, H, W, D]`` of equal D.
        grid: how many cells a side.
    """
    distance = 0.0
    for theirs, ours in zip(cells(teacher, grid), cells(student, grid), strict=True):
        squares = tf.square(gaussian(ours) - gaussian(theirs))
        distance += tf.reduce_mean(tf.reduce_sum(squares, axis=2), axis=1)
    return distance / grid**2


def cells(maps: tf.Tensor, grid: int) -> list[tf.Tensor]:
    """Maps ``[B, H, W, D]`` cut into ``grid * grid`` cells, which overlap where the size does not
    divide."""
    rows, columns = (cell_bounds(size, grid) for size in maps.shape[1:3])
    return [
        maps[:, top:bottom, left:right] for top, bottom in rows for left, right in columns
    ]


@register("WKD_F")
class WKD_F(Method):  # noqa: N801 (the paper's name)
    """Lv, Yang & Li, "Wasserstein distance rivals Kullback-Leibler divergence for knowledge
    distillation", NeurIPS 2024, on the last maps: ``mean_weight * mean + deviation``, the
    `gaussian_distances`.

    Defaults are those of the authors' code for ResNet32x4 to ResNet8x4 on CIFAR-100. Departures:
    maps of other sizes are not resized, because statistics over cells do not need equal sizes; the
    weight is constant, where theirs falls to 0 over the last 90 of 240 epochs. The gradient is
    clipped (see `Combination.CLIP`); the authors add the losses.

    Args:
        grid: cells a side, each with a mean and a deviation of its own.
        mean_weight: weight of the means' term; the deviations' is 1.
        projector: of the student's map: ``"auto"``: 1x1 convolution, batch normalisation and ReLU,
            trained with the student; ``"none"``: none, which needs equal channels.
        weight: weight relative to the main loss.
        clip: the largest norm of this loss's gradient, as a multiple of the main task's; 1e9 adds
            the losses unclipped, as the authors do.
    """

    paper = "Lv et al., NeurIPS 2024, arXiv 2412.08139"
    combination = Combination.CLIP

    grid: int = option(1, minimum=1)
    mean_weight: float = option(4.0, minimum=0)
    projector: str = option("auto", choices=("auto", "none"))
    weight: float = option(0.08, above=0)
    clip: float = option(1.0, above=0)

    @property
    def reads(self) -> LastMap:  # type: ignore[override]
        return LastMap(channels="any" if self.projector == "auto" else "equal")

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        self.check_features(teacher, student)
        theirs, ours = as_taps(teacher)[-1], as_taps(student)[-1]
        self._check_cells("teacher", theirs)
        self._check_cells("student", ours)
        if self.projector == "none":
            return self.make_loss(teacher, student)
        convolution = linear(ours, theirs.shape[-1], name="projector")
        normalization = batch_normalization("projector_bn", dtype="float32")
        normalization.build((*ours.shape[:-1], theirs.shape[-1]))

        def loss(teacher: tf.Tensor, student: tf.Tensor, context: Context) -> tf.Tensor:
            maps = normalization(convolution(student), training=context.training)
            return self.loss(teacher, tf.cast(tf.nn.relu(maps), student.dtype))

        return self.make_loss(
            teacher, student, loss, layers=[convolution, normalization],
            notes=[
                f"last tap: 1x1 projector from {ours.shape[-1]} to {theirs.shape[-1]} channels, "
                "batch normalisation and ReLU"
            ],
        )

    def loss(self, teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
        mean, deviation = tf.unstack(gaussian_distances(teacher, student, self.grid))
        return self.mean_weight * mean + deviation

    def _check_cells(self, network: str, maps: Any) -> None:
        """Raise UserError where a cell has a single position, and so no deviation."""
        height, width = ([last - first for first, last in cell_bounds(size, self.grid)]
                         for size in maps.shape[1:3])
        if self.grid > min(maps.shape[1:3]) or min(height) * min(width) < 2:
            raise UserError(
                f"WKD_F needs at least two positions in each cell: grid={self.grid} on the "
                f"{network}'s last tap of {size_text(maps.shape[1:3])} leaves one: give a smaller "
                "grid, or tap a larger map last"
            )
