"""Colorization: an image's colours from its luminance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pretext import colour
from pretext.heads import decoder, dense, places, with_places
from pretext.registration import register
from pretext.task import Task
from registry import UserError

_COARSER = 4
_SMALLEST = 8
_LEAST_CHROMA = 0.01


@register("colorization")
@dataclasses.dataclass(eq=False)
class Colorization(Task):
    """Zhang, Isola & Efros, "Colorful image colorization", ECCV 2016.

    As there, colours are classes: the chroma plane (here Cb and Cr of BT.601) is cut into squares,
    of which those that occur are told apart at a quarter of the image's resolution, and the colour
    shown is the classes' annealed mean. Unlike there, rare colours do not weigh more, which would
    need the data's statistics beforehand.

    Args:
        step: side of the squares; Cb and Cr are from -0.5 to 0.5.
        temperature: of the annealed mean (their 0.38, section 2.3).
    """

    paper = "Zhang et al., ECCV 2016, arXiv 1603.08511"
    kind = "generative"
    metric = "chroma error"
    metric_rises = False

    step: float = 0.1
    temperature: float = 0.38

    def check(self) -> None:
        height, width, channels = self.image_shape
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
        if not (0.01 <= self.step <= 0.5 and self.temperature > 0):
            raise UserError(
                "colorization: step from 0.01 to 0.5 and temperature above 0 expected, "
                f"not {self.step} and {self.temperature}"
            )
        self._make_classes()

    def _make_classes(self) -> None:
        """The squares in which some displayable colour lies: their centres ``[classes, 2]``, and a
        table from a square's place in the plane to its class."""
        level = np.linspace(0, 1, 33, dtype=np.float32)
        colours = np.stack(np.meshgrid(level, level, level), axis=-1).reshape(-1, 3)
        self._side = 2 * round(0.5 / self.step) + 1
        occur = np.unique(self._square(tf.constant(colours)))
        table = np.zeros(self._side**2, np.int32)
        table[occur] = np.arange(len(occur))
        centres = np.stack(np.divmod(occur, self._side), axis=-1) - self._side // 2
        self._table = tf.constant(table)
        self._centres = tf.constant((centres * self.step).astype(np.float32))

    def _square(self, images: tf.Tensor) -> tf.Tensor:
        """The number of the square of the chroma plane that each colour ``[..., 3]`` is in."""
        half = self._side // 2
        place = tf.cast(tf.round(colour.chroma(images) / self.step), tf.int32)
        place = tf.clip_by_value(place, -half, half) + half
        return place[..., 0] * self._side + place[..., 1]

    def check_images(self, images: np.ndarray) -> None:
        """Refuse images without colours, although they have three channels."""
        values = tf.cast(images, tf.float32) / 255
        if float(tf.reduce_max(tf.abs(colour.chroma(values)))) < _LEAST_CHROMA:
            raise UserError(
                "colorization needs colour images, and these are grey though they have 3 "
                "channels: leave it out of the tasks"
            )

    @property
    def draws(self) -> int:
        return 1  # none is needed, but a tensor without columns is none to stack

    def views(self, images: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
        """The luminance, in all three channels; each coarse pixel's class, its chroma, the image.

        Coarse pixels are means over 4x4 pixels.
        """
        grey = tf.repeat(colour.luminance(images), 3, axis=-1)
        coarse = tf.nn.avg_pool2d(images, _COARSER, _COARSER, "SAME")
        classes = tf.gather(self._table, self._square(coarse))
        return [grey], (classes, colour.chroma(coarse), images)

    def build(self, feature_shape: Sequence[int], width: int) -> None:
        size = tuple(-(-side // _COARSER) for side in self.image_shape[:2])
        self._neck = dense("colorization_neck", places(feature_shape), width)
        self._head = decoder("colorization_head", width, size, self._centres.shape[0])
        self.layers = [self._neck, self._head]

    def embed(self, features: Sequence[tf.Tensor], training: bool = False) -> tf.Tensor:
        return self._neck(with_places(features[0]))

    def predict(self, h: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits of the classes, ``[B, H / 4, W / 4, classes]``."""
        return self._head(h, training=training)

    def _shown(self, output: tf.Tensor) -> tf.Tensor:
        """The annealed mean of the classes' chroma, ``[B, H / 4, W / 4, 2]``."""
        return tf.tensordot(tf.nn.softmax(output / self.temperature), self._centres, 1)

    def loss(self, output: tf.Tensor, target: Any) -> tf.Tensor:
        """The cross-entropy, mean over batch and coarse pixels."""
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=target[0], logits=output)
        )

    def score(self, output: tf.Tensor, target: Any) -> tf.Tensor:
        """Each image's root mean square distance in the chroma plane."""
        squared = tf.reduce_sum((self._shown(output) - target[1]) ** 2, axis=-1)
        return tf.sqrt(tf.reduce_mean(squared, axis=[1, 2]))

    def pictures(self, inputs: Sequence[tf.Tensor], output: tf.Tensor, target: Any) -> Any:
        image = target[2]
        fine = tf.image.resize(self._shown(output), self.image_shape[:2])
        coloured = colour.to_images(inputs[0][..., :1], fine)
        return tf.concat([inputs[0], tf.clip_by_value(coloured, 0, 1), image], axis=2)
