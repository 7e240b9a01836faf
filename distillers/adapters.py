"""Where taps of teacher and student differ in channels or size: 1x1 convolutions and resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.checks import describe
from distillers.loss import LossFunction
from op_util.pooling import resized


class Adapters:
    """Brings the student's taps to the channels, and if asked for the sizes, of the teacher's.

    A tap whose channels differ goes through a linear 1x1 convolution (a dense layer where it has no
    positions), which is trained with the student.

    Args:
        pairs: symbolic taps ``[B, H, W, D]`` or ``[B, D]`` of teacher and student, shallow to deep.
        resize: whether a tap of another height or width is resized.

    Attributes:
        layers: the trained layers, float32, named ``adapter1`` ... by the taps' numbers.
        notes: what was done, a line for each tap that is changed.
    """

    def __init__(self, pairs: Sequence[tuple[Any, Any]], *, resize: bool = False):
        self.notes: list[str] = []
        self._resize = resize
        self._layers: list[keras.layers.Layer | None] = []
        for number, (theirs, ours) in enumerate(pairs, start=1):
            layer, done = None, []
            if theirs.shape[-1] != ours.shape[-1]:
                layer = linear(ours, theirs.shape[-1], name=f"adapter{number}")
                done.append(f"1x1 adapter from {ours.shape[-1]} to {theirs.shape[-1]} channels")
            if resize and theirs.shape[1:-1] != ours.shape[1:-1]:
                sizes = ("x".join(map(str, tap.shape[1:-1])) for tap in (ours, theirs))
                done.append("resized from {} to {}".format(*sizes))
            self._layers.append(layer)
            if done:
                self.notes.append(f"tap {number} ({describe(ours)}): {', '.join(done)}")

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The trained layers."""
        return [layer for layer in self._layers if layer is not None]

    def __call__(
        self, teacher: Sequence[tf.Tensor], student: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """The student's taps, at least float32, as the teacher's are shaped."""
        adapted = []
        for layer, theirs, ours in zip(self._layers, teacher, student, strict=True):
            maps = ours if layer is None else tf.cast(layer(ours), ours.dtype)
            size = theirs.shape[1:-1] if self._resize else maps.shape[1:-1]
            adapted.append(resized(maps, size, up="bilinear"))
        return adapted

    def before(self, loss: LossFunction) -> LossFunction:
        """`loss` of the student's adapted taps."""
        if not self._resize and not self.layers:
            return loss
        return lambda teacher, student, context: loss(teacher, self(teacher, student), context)


def channels_read(adapter: str) -> str:
    """`Maps.channels` of a method with the hyper-parameter `adapter`, ``"auto"`` or ``"none"``."""
    return "adapt" if adapter == "auto" else "equal"


def linear(tap: Any, channels: int, name: str, use_bias: bool = True) -> keras.layers.Layer:
    """A built linear layer from a tap's channels to `channels`, position by position, float32."""
    if len(tap.shape) == 4:
        layer = keras.layers.Conv2D(
            channels, 1, use_bias=use_bias, kernel_initializer="he_normal", dtype="float32",
            name=name,
        )
    else:
        layer = keras.layers.Dense(
            channels, use_bias=use_bias, kernel_initializer="he_normal", dtype="float32", name=name
        )
    layer.build(tap.shape)
    return layer
