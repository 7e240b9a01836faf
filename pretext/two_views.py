"""Two random views of each image, cropped, mirrored and recoloured, for tasks that compare them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from op_util.metric_learning import finds_partner
from plugins import option
from pretext import colour
from pretext.cropping import crops
from pretext.heads import pooled
from pretext.task import Images, Task, Views

_PER_VIEW = 11
_ASPECT = 4 / 3
_JITTERED, _GREYED = 0.8, 0.2


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The parameters of random views.

    Attributes:
        smallest_crop: the smallest crop, as a share of the image's area.
        jitter: strength of the recolouring, 0 to 1.
        flip: whether half of the views are mirrored.
    """

    smallest_crop: float
    jitter: float
    flip: bool


def two_views(images: Images, augmentation: Augmentation) -> Views:
    """Two random views of each image.

    The target, int32 ``[B]``, just numbers the images and is not used: the losses only need to know
    which views belong together.
    """

    def make(batch: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        views = [
            recoloured(cropped(batch, draws[:, :5], augmentation), draws[:, 5:], augmentation)
            for draws in tf.split(uniform, 2, axis=1)
        ]
        return views, tf.range(tf.shape(batch)[0])

    return Views(images.shape, draws=2 * _PER_VIEW, make=make, count=2)


def cropped(images: tf.Tensor, uniform: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Crop each image with random area, aspect and position, mirror some, resize to full size.

    Args:
        images: ``[B, H, W, C]``.
        uniform: random numbers ``[B, 5]``.
        augmentation: see `Augmentation`.
    """
    smallest = augmentation.smallest_crop
    size_draw, aspect_draw, top_draw, left_draw, mirror_draw = tf.unstack(uniform, axis=1)
    area = smallest + size_draw * (1 - smallest)
    stretch = tf.exp((2 * aspect_draw - 1) * (math.log(_ASPECT) / 2))
    tall, wide = (tf.minimum(1.0, tf.sqrt(area) * factor) for factor in (stretch, 1 / stretch))
    top, left = top_draw * (1 - tall), left_draw * (1 - wide)
    first, last = left, left + wide
    if augmentation.flip:
        is_mirrored = mirror_draw < 0.5
        first, last = (
            tf.where(is_mirrored, one, other) for one, other in ((last, first), (first, last))
        )
    size = images.shape[1:3]
    down, right = (side - 1.0 for side in size)
    boxes = [top * down, first * right, (top + tall) * down, last * right]
    return crops(images, tf.stack(boxes, axis=-1)[:, None], size)[:, 0]


def recoloured(images: tf.Tensor, uniform: tf.Tensor, augmentation: Augmentation) -> tf.Tensor:
    """Change brightness, contrast and, for colour images, saturation and hue; or make images grey.

    The hue is rotated in the chroma plane.

    Args:
        images: ``[B, H, W, C]`` in 0..1.
        uniform: random numbers ``[B, 6]``.
        augmentation: see `Augmentation`.
    """
    signed = (2 * uniform - 1)[:, :, None, None, None]
    strength = 0.8 * augmentation.jitter * tf.cast(uniform[:, 4] < _JITTERED, tf.float32)
    strength = strength[:, None, None, None]
    brightness, contrast, saturation = (1 + strength * signed[:, i] for i in range(3))
    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    changed = brightness * (mean + contrast * (images - mean))
    if images.shape[-1] == 3:
        angle = strength * signed[:, 3] * (math.pi / 2)
        keeps_colour = tf.cast(uniform[:, 5] >= _GREYED, tf.float32)[:, None, None, None]
        saturation *= keeps_colour
        blue, red = tf.split(colour.chroma(changed), 2, axis=-1)
        cosine, sine = saturation * tf.cos(angle), saturation * tf.sin(angle)
        turned = tf.concat([cosine * blue - sine * red, sine * blue + cosine * red], axis=-1)
        changed = colour.to_images(colour.luminance(changed), turned)
    return tf.clip_by_value(changed, 0, 1)


class TwoViewTask(Task):
    """A task that compares two random views of each image. Each view has its own h.

    Args:
        smallest_crop: the smallest crop, as a share of the image's area (SimCLR: 0.08).
        jitter: strength of the recolouring, 0 to 1 (SimCLR on CIFAR-10: 0.5).
        flip: whether half of the views are mirrored. If not set, they are mirrored if that keeps
            the meaning of the images.
    """

    metric = "retrieval accuracy"
    couples_samples = True

    smallest_crop: float = option(0.2, above=0, maximum=1)
    jitter: float = option(0.5, minimum=0, maximum=1)
    flip: bool | None = option(None)

    def views(self, images: Images) -> Views:
        flip = images.flip if self.flip is None else self.flip
        return two_views(images, Augmentation(self.smallest_crop, self.jitter, flip))

    def embed(
        self, neck: keras.layers.Layer, features: Sequence[tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """The h of both views, ``[B, 2, width]``."""
        return tf.stack([neck(pooled(maps)) for maps in features], axis=1)

    def predict(self, head: keras.layers.Layer, h: tf.Tensor, training: bool = False) -> Any:
        """Both views' projections, ``[B, 2, D]``."""
        return head(tf.nn.relu(h))

    def score(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """1 if the second view nearest to an image's first view is the image's own, else 0."""
        return tf.cast(finds_partner(output), tf.float32)
