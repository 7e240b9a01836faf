"""A light one-level anchor-free detector on an encoder's last map (CenterNet).

Zhou, Wang and Kraehenbuehl, "Objects as points", 2019: ``L = L_heat + 0.1 L_size + L_offset``.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

import nets
from targets.boxes import Found, decode

STRIDE = 4
"""The largest allowed cell of the heat map, in pixels."""
WIDTH = 64
ALPHA, BETA = 2, 4
"""Exponents of the focal loss."""
SIZE_WEIGHT = 0.1
RARE = 0.1
"""The initial value of the heat map everywhere. It keeps the many cells without a centre from
dominating the first steps (Lin et al., "Focal loss for dense object detection", 2017)."""


def heat_loss(logits: tf.Tensor, heat: tf.Tensor) -> tf.Tensor:
    """The focal loss with a reduced penalty near centres (Zhou et al., equation 1).

    ``-1/N sum (1 - p)^2 log p`` at centres, ``(1 - y)^4 p^2 log(1 - p)`` elsewhere.

    Args:
        logits: float32 [B,h,w,classes]; p is their sigmoid.
        heat: float32 [B,h,w,classes], y.

    Returns:
        A scalar.
    """
    probability = tf.sigmoid(logits)
    is_centre = tf.cast(heat == 1, tf.float32)
    hit = is_centre * (1 - probability) ** ALPHA * tf.math.log_sigmoid(logits)
    miss = (1 - heat) ** BETA * probability**ALPHA * tf.math.log_sigmoid(-logits)
    return -tf.reduce_sum(hit + miss) / tf.maximum(tf.reduce_sum(is_centre), 1)


def centre_l1(predicted: tf.Tensor, target: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """``1/N sum |predicted - target|`` over the N centres, a scalar.

    Args:
        predicted, target: [B,h,w,2].
        centres: [B,h,w], 1 in cells with a centre, else 0.
    """
    distance = tf.reduce_sum(tf.abs(predicted - target), -1) * centres
    return tf.reduce_sum(distance) / tf.maximum(tf.reduce_sum(centres), 1)


class Detector:
    """A copy of an encoder for images of one size, with a small decoder and three heads.

    The encoder's last map goes through a batch normalisation, a 1x1 convolution to 64 channels,
    transposed convolutions that each double its size until a cell is no larger than 4 pixels, a 3x3
    convolution, and one 1x1 convolution per head.

    Args:
        encoder: a copy of it is the backbone. If it takes grey images, the scenes are converted to
            grey.
        image_size: (height, width) of the images.
        classes: number of classes.
        trains_encoder: whether the encoder is trained too.
        seed: random seed for the decoder's initial weights.

    Attributes:
        image_size: as given.
        grid: (h, w) of the heat map.
        trained: the variables to train.
        state: other variables that training updates (moving statistics).
    """

    def __init__(
        self, encoder: nets.Encoder, image_size: tuple[int, int], classes: int, *,
        trains_encoder: bool, seed: int,
    ):
        copied = nets.trainable_copy if trains_encoder else nets.copy_encoder
        self._encoder = copied(encoder, image_size)
        self._trains_encoder = trains_encoder
        self.image_size = image_size
        self._head = _head(
            self._encoder.model.output["features"].shape[1:], image_size, classes, seed
        )
        self.grid: tuple[int, int] = tuple(self._head.output["heat"].shape[1:3])
        models = [self._encoder.model, self._head] if trains_encoder else [self._head]
        self.trained = [each for model in models for each in model.trainable_variables]
        self.state = [each for model in models for each in model.non_trainable_variables]

    def _maps(self, images: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """``heat`` (logits), ``sizes`` and ``offsets`` of raw images."""
        if self._encoder.image_shape[-1] == 1:
            images = tf.image.rgb_to_grayscale(images)
        standardized = self._encoder.standardize(images)
        trains = training and self._trains_encoder
        features = self._encoder.model(standardized, training=trains)["features"]
        return self._head(features, training=training)

    def loss(
        self, images: tf.Tensor, heat: tf.Tensor, sizes: tf.Tensor, offsets: tf.Tensor,
        centres: tf.Tensor,
    ) -> tf.Tensor:
        """The detector's loss on raw images [B,H,W,C] and their maps, see `boxes.CentreMaps`."""
        maps = self._maps(images, training=True)
        return (
            heat_loss(maps["heat"], heat)
            + SIZE_WEIGHT * centre_l1(maps["sizes"], sizes, centres)
            + centre_l1(maps["offsets"], offsets, centres)
        )

    def find(self, images: np.ndarray) -> list[Found]:
        """Detect the objects in raw images [B,H,W,C]."""
        maps = self._maps(tf.convert_to_tensor(images), training=False)
        heat = tf.sigmoid(maps["heat"]).numpy()
        sizes, offsets = maps["sizes"].numpy(), maps["offsets"].numpy()
        return decode(heat, sizes, offsets, image_size=self.image_size)


def _head(
    feature_shape: tuple[int, int, int], image_size: tuple[int, int], classes: int, seed: int
) -> keras.Model:
    """A model from the encoder's last map to ``heat`` (logits), ``sizes`` and ``offsets``."""
    seeds = iter(range(1000 * seed, 1000 * seed + 1000))

    def initial() -> keras.initializers.Initializer:
        return keras.initializers.HeNormal(next(seeds))

    def layer(kind: type, width: int, size: int, **options: object) -> keras.layers.Layer:
        return kind(width, size, padding="same", kernel_initializer=initial(), dtype="float32",
                    **options)

    features = keras.Input(feature_shape)
    maps = keras.layers.BatchNormalization(momentum=0.9, dtype="float32")(features)
    maps = layer(keras.layers.Conv2D, WIDTH, 1, activation="relu")(maps)
    while image_size[0] > STRIDE * maps.shape[1] or image_size[1] > STRIDE * maps.shape[2]:
        maps = layer(keras.layers.Conv2DTranspose, WIDTH, 4, strides=2, activation="relu")(maps)
    maps = layer(keras.layers.Conv2D, WIDTH, 3, activation="relu")(maps)
    rare = keras.initializers.Constant(float(np.log(RARE / (1 - RARE))))
    return keras.Model(features, {
        "heat": layer(keras.layers.Conv2D, classes, 1, bias_initializer=rare)(maps),
        "sizes": layer(keras.layers.Conv2D, 2, 1)(maps),
        "offsets": layer(keras.layers.Conv2D, 2, 1)(maps),
    })
