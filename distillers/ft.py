"""FT: factor transfer, the teacher's last map is paraphrased, and the student's translated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.checks import in_range, positive
from distillers.maps import at_one_size, last_maps, size_notes
from distillers.method import Method, Stage
from distillers.registration import register
from op_util.precision import at_least_float32
from op_util.vectors import directions
from registry import UserError

_ENCODER, _DECODER, _TRANSLATOR = (
    tuple(f"{part}{i}" for i in (1, 2, 3))
    for part in ("paraphraser_encoder", "paraphraser_decoder", "translator")
)


@register("FT")
@dataclasses.dataclass(eq=False)
class FT(Method):
    """Kim, Park & Kwak, "Paraphrasing complex network: network compression via factor transfer",
    NeurIPS 2018.

    First a paraphraser, a convolutional autoencoder, learns the teacher's last map, which costs no
    training of the student; then the student learns the main task and, through a translator, the
    paraphraser's factors. Each of encoder, decoder and translator is three 3x3 convolutions with
    leaky ReLU (slope 0.1). The last taps may differ in channels; the larger factor is averaged to
    the size of the smaller. Departure: the paraphraser's loss is relative to the map it describes
    (`reconstruction_loss`), as a residual teacher's maps are so large that the plain mean square
    diverges at the learning rates that its student needs.

    Args:
        paraphraser_share: of the epochs, for the first stage: RepDistiller's 30 epochs before 240.
        rate: k, how many channels a factor has for each of the teacher's last map.
        weight: of the factor loss, next to the main loss, for a mean over features: 500 in the
            authors' code. RepDistiller has 200, for factors averaged over channels.
    """

    paper = "Kim et al., NeurIPS 2018, arXiv 1802.04977"

    paraphraser_share: float = 0.11
    rate: float = 0.5
    weight: float = 500.0

    def __post_init__(self) -> None:
        in_range("FT", 0, 1, paraphraser_share=self.paraphraser_share)
        positive("FT", rate=self.rate, weight=self.weight)
        self._layers: dict[str, keras.layers.Layer] = {}
        self._notes: list[str] = []

    @property
    def stages(self) -> tuple[Stage, ...]:  # type: ignore[override]
        return (
            Stage(
                "paraphraser", self.paraphraser_share, main_loss=False, trains="nothing",
                layers=_ENCODER + _DECODER,
            ),
            Stage("train", 1 - self.paraphraser_share, layers=_TRANSLATOR, new_optimizer=True),
        )

    @property
    def layers(self) -> Sequence[keras.layers.Layer]:
        return list(self._layers.values())

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def build(self, teacher_outputs: Sequence[Any], student_outputs: Sequence[Any]) -> None:
        teacher, student = last_maps("FT", teacher_outputs, student_outputs)
        self._notes = size_notes([teacher], [student], first=len(student_outputs))
        full, ours = teacher.shape[-1], student.shape[-1]
        factor = round(self.rate * full)
        if factor < 1:
            raise UserError(
                f"FT: rate {self.rate} of the {full} channels of the teacher's last tap is none"
            )
        self._layers = {
            **_convolutions(keras.layers.Conv2D, _ENCODER, (full, full, factor, factor)),
            **_convolutions(keras.layers.Conv2DTranspose, _DECODER, (factor, factor, full, full)),
            **_convolutions(keras.layers.Conv2D, _TRANSLATOR, (ours, ours, factor, factor)),
        }

    def compute(
        self, teacher_outputs: Sequence[tf.Tensor], student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        weight = 1.0 if context.get("stage") == "paraphraser" else self.weight
        return weight * self.compute_loss(teacher_outputs, student_outputs, **context), {}

    def compute_loss(
        self,
        teacher_outputs: Sequence[tf.Tensor],
        student_outputs: Sequence[tf.Tensor],
        **context: Any,
    ) -> tf.Tensor:
        """In stage ``"paraphraser"`` the `reconstruction_loss` of what the autoencoder makes of the
        teacher's last map, else the `factor_loss`.

        Args:
            teacher_outputs, student_outputs: taps, of which the last ``[B, H, W, D]`` is used.
        """
        theirs = tf.stop_gradient(at_least_float32(teacher_outputs[-1]))
        factor = self._through(_ENCODER, theirs)
        if context.get("stage") == "paraphraser":
            return reconstruction_loss(theirs, self._through(_DECODER, factor))
        translated = self._through(_TRANSLATOR, at_least_float32(student_outputs[-1]))
        return factor_loss(factor, translated)

    def _through(self, names: Sequence[str], maps: tf.Tensor) -> tf.Tensor:
        for name in names:
            maps = tf.nn.leaky_relu(self._layers[name](maps), 0.1)
        return maps


def _convolutions(
    kind: type[keras.layers.Layer], names: Sequence[str], channels: Sequence[int]
) -> dict[str, keras.layers.Layer]:
    """Built 3x3 convolutions one after the other, by name; `channels` from first input to last
    output."""
    layers = {}
    for name, given, made in zip(names, channels, channels[1:], strict=False):
        layers[name] = kind(
            made, 3, padding="same", kernel_initializer="he_normal", dtype="float32", name=name
        )
        layers[name].build((None, None, None, given))
    return layers


def reconstruction_loss(maps: tf.Tensor, made: tf.Tensor) -> tf.Tensor:
    """The mean over the batch of ``||made - maps||^2 / ||maps||^2``, the norms over all features of
    an image; an image whose map is zero adds nothing.

    The paper's mean square, but for the division: it has the same minimum where the autoencoder is
    exact, and a gradient that does not grow with the maps.

    Args:
        maps, made: ``[B, H, W, D]`` of one shape.
    """
    maps = tf.cast(maps, made.dtype)
    error, size = (
        tf.reduce_sum(tf.square(part), axis=(1, 2, 3)) for part in (made - maps, maps)
    )
    return tf.reduce_mean(tf.math.divide_no_nan(error, size))


def factor_loss(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """The mean over batch and features of ``|F_T / ||F_T|| - F_S / ||F_S|||`` (the paper's with
    p = 1), the norms over all features of an image.

    Args:
        teacher, student: factors F ``[B, H, W, D]`` of equal D; the teacher's gets no gradient.
    """
    theirs, ours = (
        directions(tf.reshape(factor, [-1, math.prod(factor.shape[1:])]))
        for factor in at_one_size(teacher, student)
    )
    return tf.reduce_mean(tf.abs(ours - theirs))
