"""FT: factor transfer, the teacher's last map is paraphrased, and the student's translated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from distillers.loss import Context, Loss, Stage, Trains
from distillers.method import Method
from distillers.reading import LastMap, at_one_size
from distillers.registration import register
from op_util.vectors import unit_vectors
from plugins import option
from registry import UserError


def reconstruction_loss(maps: tf.Tensor, reconstructed: tf.Tensor) -> tf.Tensor:
    """The mean over the batch of ``||reconstructed - maps||^2 / ||maps||^2``, the norms over all
    features of an image; an image whose map is zero adds nothing.

    The paper's mean square (equation 1), but for the division: the minimum is the same where the
    autoencoder is exact, and the gradient does not grow with the maps.

    Args:
        maps, reconstructed: ``[B, H, W, D]`` of one shape.
    """
    error, size = (
        tf.reduce_sum(tf.square(part), axis=(1, 2, 3)) for part in (reconstructed - maps, maps)
    )
    return tf.reduce_mean(tf.math.divide_no_nan(error, size))


def factor_loss(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    """The mean over batch and features of ``|F_T / ||F_T|| - F_S / ||F_S|||`` (equation 4 with
    p = 1), the norms over all features of an image.

    Args:
        teacher, student: factors F ``[B, H, W, D]`` of equal D; the larger is averaged to the size
            of the smaller.
    """
    theirs, ours = (
        unit_vectors(tf.reshape(factor, [-1, math.prod(factor.shape[1:])]))
        for factor in at_one_size(teacher, student)
    )
    return tf.reduce_mean(tf.abs(ours - theirs))


@register("FT")
class FT(Method):
    """Kim, Park & Kwak, "Paraphrasing complex network: network compression via factor transfer",
    NeurIPS 2018.

    First a paraphraser, a convolutional autoencoder, learns the teacher's last map, while the
    student does not train; then the student learns the main task and, through a translator, the
    paraphraser's factors. Encoder, decoder and translator are three 3x3 convolutions each, with
    leaky ReLU (slope 0.1). The last taps may differ in channels; the larger factor is averaged to
    the size of the smaller. Departure: the paraphraser's loss is relative to the map it describes
    (`reconstruction_loss`), because a residual teacher's maps are so large that the plain mean
    square diverges at the learning rates that its student needs.

    Args:
        paraphraser_share: share of the epochs for the first stage: RepDistiller's 30 epochs before
            240.
        rate: k, channels of a factor per channel of the teacher's last map.
        weight: of the factor loss, next to the main loss, for a mean over features: 500 in the
            authors' code. RepDistiller has 200, for factors averaged over channels.
    """

    paper = "Kim et al., NeurIPS 2018, arXiv 1802.04977"
    reads = LastMap(sizes="adapted")

    paraphraser_share: float = option(0.11, minimum=0, maximum=1)
    rate: float = option(0.5, above=0)
    weight: float = option(500.0, above=0)

    def build(self, teacher: Any, student: Any, *, samples: int | None = None) -> Loss:
        notes = self.check_features(teacher, student)
        theirs, ours = teacher[-1].shape[-1], student[-1].shape[-1]
        factor = round(self.rate * theirs)
        if factor < 1:
            raise UserError(
                f"FT: rate {self.rate} of the teacher's {theirs} channels leaves no channel; "
                f"expected at least {1 / theirs:.2g}"
            )
        convolution, transposed = keras.layers.Conv2D, keras.layers.Conv2DTranspose
        encoder = _layers("paraphraser_encoder", convolution, (theirs, theirs, factor, factor))
        decoder = _layers("paraphraser_decoder", transposed, (factor, factor, theirs, theirs))
        translator = _layers("translator", convolution, (ours, ours, factor, factor))

        def paraphrase(teacher: tf.Tensor, student: tf.Tensor, context: Context) -> tf.Tensor:
            return reconstruction_loss(teacher, _through(decoder, _through(encoder, teacher)))

        def transfer(teacher: tf.Tensor, student: tf.Tensor, context: Context) -> tf.Tensor:
            factor = tf.stop_gradient(_through(encoder, teacher))
            return factor_loss(factor, _through(translator, student))

        first = Stage(
            "paraphraser", self.paraphraser_share, loss=paraphrase, main_weight=0,
            trains=Trains.NOTHING, layers=[*encoder, *decoder],
        )
        train = Stage(
            "train", 1 - self.paraphraser_share, loss=transfer, weight=self.weight,
            layers=translator, new_optimizer=True,
        )
        layers = [*encoder, *decoder, *translator]
        return Loss(self, [first, train], layers=layers, notes=notes)


def _layers(
    name: str, kind: type[keras.layers.Layer], channels: Sequence[int]
) -> list[keras.layers.Layer]:
    """Built 3x3 convolutions one after the other, ``name1`` and so on; `channels` from the first
    input to the last output."""
    layers = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(channels), start=1):
        layer = kind(
            outputs, 3, padding="same", kernel_initializer="he_normal", dtype="float32",
            name=f"{name}{number}",
        )
        layer.build((None, None, None, inputs))
        layers.append(layer)
    return layers


def _through(layers: Sequence[keras.layers.Layer], maps: tf.Tensor) -> tf.Tensor:
    """Maps ``[B, H, W, D]`` through layers with leaky ReLU, in the type of the maps."""
    found = maps
    for layer in layers:
        found = tf.nn.leaky_relu(layer(found), 0.1)
    return tf.cast(found, maps.dtype)
