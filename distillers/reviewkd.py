"""ReviewKD: what the teacher learned early is reviewed with what the student learned late."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.checks import described, positive, tap_pairs
from distillers.method import Method
from distillers.registration import register
from nets.layers import batch_normalization
from op_util.pooling import adaptive_average_pool, nearest
from op_util.precision import at_least_float32

WIDEST = 512  # channels in which maps are fused
PYRAMID = (4, 2, 1)  # sizes to which maps are averaged for the hierarchical context loss


@register("ReviewKD")
@dataclasses.dataclass(eq=False)
class ReviewKD(Method):
    """Chen, Liu, Zhao & Jia, "Distilling knowledge via knowledge review", CVPR 2021.

    From deep to shallow each of the student's maps is fused with what the deeper ones have become,
    by attention (`AttentionFusion`), and compared with the teacher's map of that depth by a
    hierarchical context loss (`hierarchical_context_loss`). The deepest level is the embedding, as
    in the paper's code for classification, unless the deepest tap is a vector itself. Channels and
    sizes of teacher and student may differ: the fusion brings the student's to the teacher's.

    Args:
        weight: of this loss, next to the main loss. Paper and mdistiller: 0.6 to 8, by the pair of
            networks; 1 where they name none.
        warmup: epochs in which the weight grows to its full size (paper, mdistiller: 20 of 240),
            of which the first has its share, as in mdistiller.
    """

    paper = "Chen et al., CVPR 2021, arXiv 2104.09044"
    reads = ("maps", "embedding")

    weight: float = 1.0
    warmup: int = 20

    def __post_init__(self) -> None:
        positive("ReviewKD", weight=self.weight, warmup=self.warmup)
        self._fusions: list[AttentionFusion] = []  # shallow to deep
        self._notes: list[str] = []

    @property
    def distillation_weight(self) -> float:
        return self.weight

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        return self._fusions

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def build(self, teacher_outputs: dict[str, Any], student_outputs: dict[str, Any]) -> None:
        tap_pairs(
            "ReviewKD", teacher_outputs["maps"], student_outputs["maps"], at_least=1,
            equal_channels=False, equal_ranks=True,
        )
        taps = list(zip(_levels(teacher_outputs), _levels(student_outputs), strict=True))
        middle = min(WIDEST, taps[-1][1].shape[-1])
        self._fusions = [
            AttentionFusion(
                student.shape[-1], middle, teacher.shape[-1], fuses=number < len(taps),
                name=f"fusion{number}",
            )
            for number, (teacher, student) in enumerate(taps, start=1)
        ]
        self._notes = [
            f"tap {number} ({described(student)}): fused into {_size(teacher)}, from "
            f"{_size(student)}"
            for number, (teacher, student) in enumerate(taps, start=1)
            if _size(teacher) != _size(student)
        ]

    def compute_loss(
        self,
        teacher_outputs: dict[str, Any],
        student_outputs: dict[str, Any],
        **context: Any,
    ) -> tf.Tensor:
        """The sum over levels of `hierarchical_context_loss`, times what the warm-up lets through.

        Args:
            teacher_outputs, student_outputs: ``maps``, taps ``[B, H, W, D]`` or ``[B, D]``, shallow
                to deep, and ``embedding [B, D]``.
        """
        teacher, student = (
            [_as_map(at_least_float32(level)) for level in _levels(outputs)]
            for outputs in (teacher_outputs, student_outputs)
        )
        training = context.get("stage") is not None
        loss, deeper = 0.0, None
        for fusion, theirs, ours in zip(
            reversed(self._fusions), reversed(teacher), reversed(student), strict=True
        ):
            found, deeper = fusion(ours, deeper, size=tuple(theirs.shape[1:3]), training=training)
            loss += hierarchical_context_loss(found, tf.cast(tf.stop_gradient(theirs), found.dtype))
        return self._share(context.get("epoch"), loss.dtype) * loss

    def _share(self, epoch: Any, dtype: tf.DType) -> tf.Tensor:
        """The share of the weight in an epoch, counted from 0; all of it where none is given."""
        if epoch is None:
            return tf.ones([], dtype)
        return tf.minimum((tf.cast(epoch, dtype) + 1) / self.warmup, 1)


def hierarchical_context_loss(student: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
    """The mean squared difference of maps, and of the same averaged to 4x4, 2x2 and 1x1 as far as
    that is smaller: a mean, weighted by 1, 1/2, 1/4 and so on (Chen et al., section 3.3).

    Args:
        student, teacher: ``[B, H, W, D]``.
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


class AttentionFusion(keras.layers.Layer):
    """Attention based fusion (Chen et al., section 3.2) of a map with the deeper ones' fusion.

    Args:
        inputs, middle, outputs: channels of the student's map, of the fusion, and of the teacher's.
        fuses: whether there is a deeper one.
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

        Returns:
            What is to be like the teacher's map, and the fusion ``[B, *size, middle]``.
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


def _levels(outputs: dict[str, Any]) -> list[Any]:
    """The taps, and the embedding where the deepest tap is a map."""
    maps = list(outputs["maps"])
    return maps if len(maps[-1].shape) == 2 else [*maps, outputs["embedding"]]


def _as_map(level: tf.Tensor) -> tf.Tensor:
    """``[B, D]`` as ``[B, 1, 1, D]``; maps as they are."""
    return level[:, None, None] if len(level.shape) == 2 else level


def _size(level: Any) -> str:
    return "x".join(map(str, level.shape[1:]))
