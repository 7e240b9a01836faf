"""ReviewKD: what the teacher learned early is reviewed with what the student learned late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.checks import describe
from distillers.loss import Loss
from distillers.method import Method, with_context
from distillers.reading import Embedding, Maps, as_taps, size_text
from distillers.registration import register
from nets.layers import batch_normalization
from op_util.pooling import adaptive_average_pool, nearest
from plugins import option

WIDEST = 512  # channels in which maps are fused
PYRAMID = (4, 2, 1)  # sizes to which maps are averaged for the hierarchical context loss


def hierarchical_context_loss(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """HCL (section 3.3): the mean squared difference of the maps, and of the maps averaged to 4x4,
    2x2 and 1x1 as far as that is smaller; a mean, weighted by 1, 1/2, 1/4 and so on.

    Args:
        teacher, student: ``[B, H, W, D]`` of one shape.
    """
    loss, weight, weights = tf.reduce_mean(tf.square(student - teacher)), 1.0, 1.0
    for size in PYRAMID:
        if size >= min(student.shape[1:3]):
            continue
        ours, theirs = (adaptive_average_pool(maps, (size, size)) for maps in (student, teacher))
        weight /= 2
        weights += weight
        loss += weight * tf.reduce_mean(tf.square(ours - theirs))
    return loss / weights


def review_loss(
    teacher: Sequence[tf.Tensor],
    student: Sequence[tf.Tensor],
    fusions: Sequence[AttentionFusion],
    training: bool,
) -> tf.Tensor:
    """The sum over levels, from deep to shallow, of the `hierarchical_context_loss` of the
    teacher's map and what the student's was fused to.

    Args:
        teacher, student: maps ``[B, H, W, D]``, shallow to deep.
        fusions: of each level.
        training: whether the fusions normalise by the batch.
    """
    loss, deeper = 0.0, None
    levels = list(zip(teacher, student, fusions, strict=True))
    for theirs, ours, fusion in reversed(levels):
        found, deeper = fusion(ours, deeper, size=tuple(theirs.shape[1:3]), training=training)
        loss += hierarchical_context_loss(tf.cast(theirs, found.dtype), found)
    return loss


class AttentionFusion(keras.layers.Layer):
    """ABF (section 3.2): attention based fusion of a map with what the deeper ones were fused to.

    Args:
        inputs, middle, outputs: channels of the student's map, of the fusion, and of the teacher's.
        fuses: whether there is a deeper map.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, fuses: bool, name: str):
        super().__init__(dtype="float32", name=name)
        self.reduction = self._convolution("reduction", inputs, middle, 1)
        self.reduction_normalization = self._normalization("reduction", middle)
        self.attention = None
        if fuses:
            self.attention = keras.layers.Conv2D(
                2, 1, activation="sigmoid", dtype="float32", name=f"{name}_attention"
            )
            self.attention.build((None, None, None, 2 * middle))
        self.output_convolution = self._convolution("output", middle, outputs, 3)
        self.output_normalization = self._normalization("output", outputs)
        self.built = True

    def call(
        self,
        maps: tf.Tensor,
        deeper: tf.Tensor | None,
        size: tuple[int, int],
        training: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Fuse.

        Args:
            maps: the student's, ``[B, H, W, D]``.
            deeper: the fusion of the deeper ones, ``[B, H', W', middle]``.
            size: height and width of the teacher's map.
            training: whether to normalise by the batch.

        Returns:
            What is compared with the teacher's map ``[B, *size, outputs]``, and the fusion
            ``[B, *size, middle]``.
        """
        fused = self.reduction_normalization(self.reduction(maps), training=training)
        if self.attention is not None:
            deeper = nearest(deeper, fused.shape[1:3])
            share = self.attention(tf.concat([fused, deeper], axis=3))
            fused = fused * share[..., :1] + deeper * share[..., 1:]
        fused = nearest(fused, size)
        found = self.output_normalization(self.output_convolution(fused), training=training)
        return found, fused

    def _convolution(
        self, what: str, inputs: int, filters: int, kernel: int
    ) -> keras.layers.Conv2D:
        layer = keras.layers.Conv2D(
            filters, kernel, padding="same", use_bias=False, kernel_initializer="lecun_uniform",
            dtype="float32", name=f"{self.name}_{what}",
        )
        layer.build((None, None, None, inputs))
        return layer

    def _normalization(self, what: str, channels: int) -> keras.layers.BatchNormalization:
        layer = batch_normalization(f"{self.name}_{what}_bn", dtype="float32")
        layer.build((None, None, None, channels))
        return layer


@register("ReviewKD")
class ReviewKD(Method):
    """Chen, Liu, Zhao & Jia, "Distilling knowledge via knowledge review", CVPR 2021.

    From deep to shallow, each of the student's maps is fused with the fusion of the deeper ones by
    attention (`AttentionFusion`), and compared with the teacher's map of that depth by a
    hierarchical context loss (`hierarchical_context_loss`). The deepest level is the embedding, as
    in the paper's code for classification, unless the deepest tap is a vector itself. Channels and
    sizes of teacher and student may differ: the fusion brings the student's to the teacher's.

    Departure: mdistiller compares with the teacher's maps before their ReLU. The taps of this
    project's networks come after it; for mdistiller's form, name layers before the ReLU
    (``--teacher_taps``, ``--student_taps``).

    Args:
        weight: weight relative to the main loss. Paper and mdistiller: 0.6 to 8, by the pair of
            networks; 1 where they name none.
        warmup: share of the run's epochs over which the weight grows to its full size (paper,
            mdistiller: 20 of 240 epochs); 0: it has its full size from the start.
    """

    paper = "Chen et al., CVPR 2021, arXiv 2104.09044"
    reads = (Maps(sizes="adapted", tokens=False), Embedding())

    weight: float = option(1.0, above=0)
    warmup: float = option(0.083, minimum=0, maximum=1)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        self.check_features(teacher, student)
        levels = list(zip(_levels(teacher), _levels(student), strict=True))
        middle = min(WIDEST, levels[-1][1].shape[-1])
        fusions = [
            AttentionFusion(
                ours.shape[-1], middle, theirs.shape[-1], fuses=number < len(levels),
                name=f"fusion{number}",
            )
            for number, (theirs, ours) in enumerate(levels, start=1)
        ]

        def loss(teacher: Any, student: Any, *, training: bool) -> tf.Tensor:
            maps = ([_as_map(level) for level in _levels(each)] for each in (teacher, student))
            return review_loss(*maps, fusions, training)

        notes = [
            f"tap {number} ({describe(ours)}): fused into {size_text(theirs.shape[1:])}, from "
            f"{size_text(ours.shape[1:])}"
            for number, (theirs, ours) in enumerate(levels, start=1)
            if tuple(theirs.shape[1:]) != tuple(ours.shape[1:])
        ]
        return self.make_loss(
            teacher, student, with_context(loss, self.name), layers=fusions, notes=notes
        )


def _levels(features: dict[str, Any]) -> list[Any]:
    """The taps, and the embedding where the deepest tap is a map."""
    maps = list(as_taps(features["maps"]))
    return maps if len(maps[-1].shape) == 2 else [*maps, features["embedding"]]


def _as_map(level: tf.Tensor) -> tf.Tensor:
    """``[B, D]`` as ``[B, 1, 1, D]``; maps as they are."""
    return level[:, None, None] if len(level.shape) == 2 else level
