"""SimKD: the student's encoder learns to feed the teacher's own classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.checks import described, positive, same_classes
from distillers.maps import last_maps, size_notes, smaller_size
from distillers.method import Method, Stage
from distillers.registration import register
from nets.layers import batch_normalization
from op_util.precision import at_least_float32
from registry import UserError


@register("SimKD")
@dataclasses.dataclass(eq=False)
class SimKD(Method):
    """Chen, Mei, Zhang, Wang, Feng & Chen, "Knowledge distillation with the reused teacher
    classifier", CVPR 2022.

    The student's last map, through a projector, is to be the teacher's; there is no other loss. The
    deployed model is the student up to its last tap, the projector, and a copy of what the teacher
    has after its last tap, which is not trained. The student's own classifier is neither trained
    nor used.

    The projector is a bottleneck of 1x1, 3x3 and 1x1 convolutions, each with batch normalisation
    and ReLU; so the teacher's last tap is to come after a ReLU. Where the last maps differ in size,
    the loss compares them at the smaller, and the teacher's classifier gets the size it knows.

    Args:
        factor: the teacher's channels per channel within the bottleneck (the paper's 2).
    """

    paper = "Chen et al., CVPR 2022, arXiv 2203.14001"
    reads = ("maps", "logits")
    stages = (Stage("train", main_loss=False, trains="taps", taps=(-1,)),)

    factor: float = 2.0

    def __post_init__(self) -> None:
        positive("SimKD", factor=self.factor)
        self._projector: list[tuple[keras.layers.Layer, keras.layers.Layer]] = []
        self._classifier: keras.Model | None = None
        self._notes: list[str] = []

    @property
    def main_weight(self) -> float:
        return 0.0

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        return [layer for pair in self._projector for layer in pair]

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def build(self, teacher_outputs: dict[str, Any], student_outputs: dict[str, Any]) -> None:
        same_classes("SimKD", teacher_outputs["logits"], student_outputs["logits"])
        theirs, ours = last_maps("SimKD", teacher_outputs["maps"], student_outputs["maps"])
        self._notes = size_notes([theirs], [ours], first=len(student_outputs["maps"]))
        self._their_size, self._size = tuple(theirs.shape[1:3]), smaller_size(theirs, ours)
        self._student_map = ours
        inner = round(theirs.shape[-1] / self.factor)
        if inner < 1:
            raise UserError(
                f"SimKD: a bottleneck of {theirs.shape[-1]} / {self.factor} channels has none"
            )
        self._projector = _projector(ours.shape[-1], inner, theirs.shape[-1])
        if isinstance(theirs, keras.KerasTensor):
            self._classifier = _copied_classifier(theirs, teacher_outputs["logits"])

    def compute_loss(
        self, teacher_outputs: dict[str, Any], student_outputs: dict[str, Any], **context: Any
    ) -> tf.Tensor:
        """The mean over batch and features of ``(projector(student) - teacher)^2``, last maps.

        Args:
            teacher_outputs, student_outputs: ``maps``, a list whose last is ``[B, H, W, D]``.
            **context: with a ``stage`` the projector normalises by the batch, and takes note of its
                statistics; without one, by the statistics that it has noted.
        """
        ours = self._projected(student_outputs["maps"][-1], training="stage" in context)
        theirs = tf.stop_gradient(at_least_float32(teacher_outputs["maps"][-1]))
        theirs = tf.cast(_resized(theirs, self._size), ours.dtype)
        return tf.reduce_mean(tf.square(ours - theirs))

    def logits(self, student: dict[str, Any]) -> tf.Tensor:
        """The teacher's classifier's logits of the student's projected map."""
        return self._classify(self._projected(student["maps"][-1], training=False))

    def deployed(self, student: keras.Model) -> keras.Model:
        """From the student's input to the teacher's classifier's logits; named
        ``STUDENT_with_teacher_classifier``.

        Raises:
            UserError: `build` was not given symbolic tensors.
        """
        if self._classifier is None:
            raise UserError("SimKD deploys a model of the layers' symbolic outputs: build it first")
        inputs = keras.utils.get_source_inputs(self._student_map)
        return keras.Model(
            inputs[0] if len(inputs) == 1 else inputs,
            self._classify(self._projected(self._student_map, training=None)),
            name=f"{student.name}_with_teacher_classifier",
        )

    def _projected(self, maps: Any, training: bool | None) -> Any:
        """The student's last map, real or symbolic, as the teacher's: ``[B, h, w, D_teacher]``."""
        maps = _resized(keras.ops.cast(maps, "float32"), self._size)
        for convolution, normalization in self._projector:
            maps = keras.ops.relu(normalization(convolution(maps), training=training))
        return maps

    def _classify(self, projected: Any) -> Any:
        return self._classifier(_resized(projected, self._their_size), training=False)


def _projector(
    given: int, inner: int, made: int
) -> list[tuple[keras.layers.Layer, keras.layers.Layer]]:
    """Built pairs of a convolution and its batch normalisation."""
    layers = []
    for number, (channels, kernel) in enumerate(((inner, 1), (inner, 3), (made, 1)), start=1):
        name = f"projector{number}"
        convolution = keras.layers.Conv2D(
            channels, kernel, padding="same", use_bias=False, kernel_initializer="he_normal",
            dtype="float32", name=name,
        )
        normalization = batch_normalization(f"{name}_normalization", dtype="float32")
        convolution.build((None, None, None, given))
        normalization.build((None, None, None, channels))
        layers.append((convolution, normalization))
        given = channels
    return layers


def _copied_classifier(last_tap: keras.KerasTensor, logits: keras.KerasTensor) -> keras.Model:
    """What a network has between two of its tensors, in layers and weights of its own, frozen.

    Raises:
        UserError: the logits need more than the tap.
    """
    try:
        shared = keras.Model(last_tap, logits)
    except ValueError as error:
        raise UserError(
            f"SimKD reuses what the teacher has after its last tap, but its logits do not come "
            f"from {described(last_tap)} alone: name another layer as the last tap"
        ) from error
    copy = keras.models.clone_model(shared)
    copy.set_weights(shared.get_weights())
    copy.trainable = False
    copy.name = "teacher_classifier"
    return copy


def _resized(maps: Any, size: tuple[int, int]) -> Any:
    """Maps ``[B, H, W, D]``, real or symbolic, averaged or repeated where one size divides the
    other, else bilinear."""
    own = tuple(maps.shape[1:3])
    if own == size:
        return maps
    if all(n % m == 0 for n, m in zip(own, size, strict=True)):
        window = tuple(n // m for n, m in zip(own, size, strict=True))
        return keras.ops.average_pool(maps, window, window, "valid", "channels_last")
    repeats = all(m % n == 0 for n, m in zip(own, size, strict=True))
    return keras.ops.image.resize(
        maps, size, "nearest" if repeats else "bilinear", antialias=not repeats,
        data_format="channels_last",
    )
