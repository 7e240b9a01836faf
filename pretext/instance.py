"""Instance discrimination: which two views show the same image."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from op_util.metric_learning import finds_partner, nt_xent
from pretext import colour
from pretext.cropping import crops
from pretext.heads import dense, pooled
from pretext.registration import register
from pretext.task import Task
from registry import UserError

_PER_VIEW = 11
_PROJECTION = 64
_ASPECT = 4 / 3
_JITTERED, _GREYED = 0.8, 0.2


@register("instance")
@dataclasses.dataclass(eq=False)
class Instance(Task):
    """Chen et al., "A simple framework for contrastive learning of visual representations"
    (SimCLR), ICML 2020.

    Two views of each image, cropped, mirrored and recoloured by chance, are to be found among those
    of the batch (NT-Xent). Each view has an h of its own, and the head projects each for itself.

    Args:
        temperature: of NT-Xent (theirs on CIFAR-10: 0.5).
        smallest_crop: the least share of the image's area that a view shows (theirs: 0.08).
        jitter: strength of the recolouring, 0 to 1 (theirs on CIFAR-10: 0.5).
        flip: whether half of the views are mirrored; off for images that it changes in meaning.
    """

    paper = "Chen et al., ICML 2020, arXiv 2002.05709"
    metric = "retrieval accuracy"
    couples_samples = True

    temperature: float = 0.5
    smallest_crop: float = 0.2
    jitter: float = 0.5
    flip: bool = True

    def check(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"instance: temperature must be above 0, not {self.temperature}")
        if not 0 < self.smallest_crop <= 1:
            raise UserError(
                f"instance: smallest_crop must be above 0 and at most 1, not {self.smallest_crop}"
            )
        if not 0 <= self.jitter <= 1:
            raise UserError(f"instance: jitter must be from 0 to 1, not {self.jitter}")

    @property
    def view_count(self) -> int:
        return 2

    @property
    def draws(self) -> int:
        return self.view_count * _PER_VIEW

    def views(self, images: tf.Tensor, uniform: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Two views of each image; there is nothing to know but that they belong together, so the
        target is their number in the batch, int32 ``[B]``, which is not used."""
        views = [
            self._recoloured(self._cropped(images, draws[:, :5]), draws[:, 5:])
            for draws in tf.split(uniform, self.view_count, axis=1)
        ]
        return views, tf.range(tf.shape(images)[0])

    def _cropped(self, images: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """A part of each image, of a random area, aspect and place, perhaps mirrored, at the
        image's size (``uniform [B, 5]``)."""
        area = self.smallest_crop + uniform[:, 0] * (1 - self.smallest_crop)
        stretch = tf.exp((2 * uniform[:, 1] - 1) * (math.log(_ASPECT) / 2))
        tall, wide = (
            tf.minimum(1.0, tf.sqrt(area) * factor) for factor in (stretch, 1 / stretch)
        )
        top, left = uniform[:, 2] * (1 - tall), uniform[:, 3] * (1 - wide)
        first, last = left, left + wide
        if self.flip:
            is_mirrored = uniform[:, 4] < 0.5
            first, last = (
                tf.where(is_mirrored, one, other) for one, other in ((last, first), (first, last))
            )
        down, right = (side - 1.0 for side in self.image_shape[:2])
        boxes = [top * down, first * right, (top + tall) * down, last * right]
        return crops(images, tf.stack(boxes, axis=-1)[:, None], self.image_shape[:2])[:, 0]

    def _recoloured(self, images: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
        """Images with brightness, contrast and, where there are colours, saturation and hue
        changed, or made grey (``uniform [B, 6]``). Hue is turned in the chroma plane."""
        signed = (2 * uniform - 1)[:, :, None, None, None]
        strength = 0.8 * self.jitter * tf.cast(uniform[:, 4] < _JITTERED, tf.float32)
        strength = strength[:, None, None, None]
        brightness, contrast, saturation = (1 + strength * signed[:, i] for i in range(3))
        mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
        changed = brightness * (mean + contrast * (images - mean))
        if self.image_shape[-1] == 3:
            angle = strength * signed[:, 3] * (math.pi / 2)
            keeps_colour = tf.cast(uniform[:, 5] >= _GREYED, tf.float32)[:, None, None, None]
            saturation *= keeps_colour
            blue, red = tf.split(colour.chroma(changed), 2, axis=-1)
            cosine, sine = saturation * tf.cos(angle), saturation * tf.sin(angle)
            turned = tf.concat([cosine * blue - sine * red, sine * blue + cosine * red], axis=-1)
            changed = colour.to_images(colour.luminance(changed), turned)
        return tf.clip_by_value(changed, 0, 1)

    def build(self, feature_shape: Sequence[int], width: int) -> None:
        self._neck = dense("instance_neck", feature_shape[-1], width)
        self._head = dense("instance_head", width, _PROJECTION)
        self.layers = [self._neck, self._head]

    def embed(self, features: Sequence[tf.Tensor], training: bool = False) -> tf.Tensor:
        """The h of both views, ``[B, 2, width]``."""
        return tf.stack([self._neck(pooled(maps)) for maps in features], axis=1)

    def predict(self, h: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Both views' projections, ``[B, 2, 64]``."""
        return self._head(tf.nn.relu(h))

    def loss(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """NT-Xent over the (global) batch."""
        return nt_xent(output, self.temperature)

    def score(self, output: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """1 where the nearest second view to an image's first one is its own, else 0."""
        return tf.cast(finds_partner(output), tf.float32)
