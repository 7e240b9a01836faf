"""Colorization: predict an image's colours from its luminance."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy.spatial import cKDTree

from plugins import option
from pretext import colour
from pretext.heads import decoder, dense, places, with_places
from pretext.registration import TASKS
from pretext.task import Images, Task, Views
from registry import UserError

_COARSER = 4
_SMALLEST = 8
_LEAST_CHROMA = 0.01


class ColourClasses(NamedTuple):
    """The squares of the chroma plane that contain a displayable colour.

    Attributes:
        centres: their centres (Cb, Cr), float32 ``[classes, 2]``.
        table: the class of each square of the plane, int32 ``[side ** 2]``.
        side: number of squares along each axis of the plane.
    """

    centres: np.ndarray
    table: np.ndarray
    side: int


@functools.cache
def colour_classes(step: float) -> ColourClasses:
    """The classes for squares of side `step`; Cb and Cr range from -0.5 to 0.5."""
    levels = max(33, 2 * math.ceil(1 / step) + 1)  # several colours to a square
    level = np.linspace(0, 1, levels, dtype=np.float32)
    colours = np.stack(np.meshgrid(level, level, level), axis=-1).reshape(-1, 3)
    side = 2 * round(0.5 / step) + 1
    with tf.init_scope():
        occur = np.unique(square_of(tf.constant(colours), step))
    squares = np.stack(np.divmod(np.arange(side**2), side), axis=-1) - side // 2
    centres = squares[occur]
    # A square of which the grid of colours missed a corner has the class of its neighbour.
    table = cKDTree(centres).query(squares)[1].astype(np.int32)
    return ColourClasses((centres * step).astype(np.float32), table, side)


def square_of(images: tf.Tensor, step: float) -> tf.Tensor:
    """The square of the chroma plane that each colour ``[..., 3]`` lies in, int32 ``[...]``."""
    half = round(0.5 / step)
    place = tf.cast(tf.round(colour.chroma(images) / step), tf.int32)
    place = tf.clip_by_value(place, -half, half) + half
    return place[..., 0] * (2 * half + 1) + place[..., 1]


@TASKS.register("colorization")
class Colorization(Task):
    """Zhang, Isola & Efros, "Colorful image colorization", ECCV 2016.

    As in the paper, colours are classes. The chroma plane (here Cb and Cr of BT.601) is divided
    into squares. The squares that contain displayable colours are predicted at a quarter of the
    image's resolution, and the resulting colour is the classes' annealed mean. Unlike in the paper,
    the target is one class, not a soft assignment to the five nearest, and rare colours have no
    larger weight: that would require the statistics of the data in advance.

    Args:
        step: side of the squares; Cb and Cr range from -0.5 to 0.5.
        temperature: temperature of the annealed mean (0.38 in the paper, section 2.3).
    """

    paper = "Zhang et al., ECCV 2016, arXiv 1603.08511"
    kind = "generative"
    metric = "chroma error"
    metric_rises = False

    step: float = option(0.1, minimum=0.01, maximum=0.5)
    temperature: float = option(0.38, above=0)

    def check_images(self, sample: np.ndarray) -> None:
        """Refuse images without colours, although they have three channels."""
        values = tf.cast(sample, tf.float32) / 255
        if float(tf.reduce_max(tf.abs(colour.chroma(values)))) < _LEAST_CHROMA:
            raise UserError(
                "colorization needs colour images, but these are grey although they have 3 "
                "channels: leave it out of the tasks"
            )

    def views(self, images: Images) -> Views:
        height, width, channels = images.shape
        if channels != 3:
            raise UserError(
                f"colorization needs colour images (3 channels), not {channels}: "
                "leave it out of the tasks"
            )
        if min(height, width) < _SMALLEST:
            raise UserError(
                f"colorization needs images of at least {_SMALLEST}x{_SMALLEST} pixels, "
                f"not {height}x{width}"
            )

        def make(batch: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
            grey = tf.repeat(colour.luminance(batch), 3, axis=-1)
            coarse = tf.nn.avg_pool2d(batch, _COARSER, _COARSER, "SAME")
            table = tf.constant(colour_classes(self.step).table)
            classes = tf.gather(table, square_of(coarse, self.step))
            return [grey], (classes, colour.chroma(coarse), batch)

        # No random numbers are needed, but a tensor without columns cannot be stacked.
        return Views(images.shape, draws=1, make=make)

    def build(
        self, images: Images, feature_shape: Sequence[int], width: int
    ) -> tuple[keras.layers.Layer, keras.layers.Layer]:
        size = tuple(-(-side // _COARSER) for side in images.shape[:2])
        classes = len(colour_classes(self.step).centres)
        return (
            dense("colorization_neck", places(feature_shape), width),
            decoder("colorization_head", width, size, classes),
        )

    def embed(
        self, neck: keras.layers.Layer, features: Sequence[tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        return neck(with_places(features[0]))

    def _shown(self, output: tf.Tensor) -> tf.Tensor:
        """The annealed mean of the classes' chroma, ``[B, H / 4, W / 4, 2]``."""
        centres = colour_classes(self.step).centres
        return tf.tensordot(tf.nn.softmax(output / self.temperature), centres, 1)

    def loss(self, output: tf.Tensor, target: Any) -> tf.Tensor:
        """The cross-entropy, averaged over batch and coarse pixels."""
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=target[0], logits=output)
        )

    def score(self, output: tf.Tensor, target: Any) -> tf.Tensor:
        """Each image's root mean square distance in the chroma plane."""
        squared = tf.reduce_sum((self._shown(output) - target[1]) ** 2, axis=-1)
        return tf.sqrt(tf.reduce_mean(squared, axis=[1, 2]))

    def pictures(self, inputs: Sequence[tf.Tensor], output: tf.Tensor, target: Any) -> Any:
        image = target[2]
        fine = tf.image.resize(self._shown(output), image.shape[1:3])
        coloured = colour.to_images(inputs[0][..., :1], fine)
        return tf.concat([inputs[0], tf.clip_by_value(coloured, 0, 1), image], axis=2)
