"""Building blocks of tasks: pooling, necks, decoders, and the projection shared by all tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from op_util.metric_learning import normalised

SMALL_MAP = 4
"""Maximum height and width at the start of decoders, and after the pooling of `with_places`."""
_FILTERS = 64
_FEWEST_FILTERS = 16


def dense(name: str, inputs: int, units: int, activation: str | None = None) -> keras.layers.Dense:
    """A built dense layer, in float32 under any dtype policy."""
    layer = keras.layers.Dense(
        units, activation=activation, kernel_initializer="he_normal", dtype="float32", name=name
    )
    layer.build((None, inputs))
    return layer


def pooled(maps: tf.Tensor) -> tf.Tensor:
    """The mean over positions, float32 ``[B, D]``, of maps ``[B, h, w, D]``."""
    return tf.reduce_mean(tf.cast(maps, tf.float32), axis=[1, 2])


def places(feature_shape: Sequence[int]) -> int:
    """The length of the vectors that `with_places` makes from maps of (h, w, D)."""
    height, width, channels = feature_shape
    return math.prod(-(-side // _window(side)) for side in (height, width)) * channels


def with_places(maps: tf.Tensor) -> tf.Tensor:
    """Flatten maps ``[B, h, w, D]`` to float32 vectors ``[B, p]`` that keep coarse positions.

    The maps are average-pooled to at most 4x4 positions first.
    """
    maps = tf.cast(maps, tf.float32)
    window = [_window(side) for side in maps.shape[1:3]]
    small = tf.nn.avg_pool2d(maps, window, window, "SAME")
    return tf.reshape(small, [-1, math.prod(small.shape[1:])])


def _window(side: int) -> int:
    return -(-side // SMALL_MAP)


def decoder(name: str, width: int, size: Sequence[int], channels: int) -> keras.Sequential:
    """A decoder from h ``[B, width]`` to float32 maps ``[B, *size, channels]``.

    A dense layer makes a small map. Transposed convolutions of stride 2 double it until it can be
    cropped to `size`. Their kernels are 4x4, so each position is covered equally often.

    Args:
        name: name of the model and prefix of its layers' names.
        width: the width of h.
        size: (height, width) of the maps.
        channels: channels of the maps.
    """
    doublings = max(0, math.ceil(math.log2(max(size) / SMALL_MAP)))
    start = [-(-side // 2**doublings) for side in size]
    excess = [side * 2**doublings - wanted for side, wanted in zip(start, size, strict=True)]
    layers = [
        keras.Input((width,)),
        keras.layers.Activation("relu", name=f"{name}_relu"),
        keras.layers.Dense(
            math.prod(start) * _FILTERS, activation="relu", kernel_initializer="he_normal",
            name=f"{name}_dense",
        ),
        keras.layers.Reshape((*start, _FILTERS), name=f"{name}_start"),
    ]
    for number in range(1, doublings):
        layers.append(
            keras.layers.Conv2DTranspose(
                max(_FEWEST_FILTERS, _FILTERS >> number), 4, strides=2, padding="same",
                activation="relu", kernel_initializer="he_normal", name=f"{name}_up{number}",
            )
        )
    layers += [
        keras.layers.Conv2DTranspose(
            channels, 4, strides=2 if doublings else 1, padding="same", dtype="float32",
            name=f"{name}_output",
        ),
        keras.layers.Cropping2D(
            [(over // 2, over - over // 2) for over in excess], dtype="float32", name=f"{name}_cut"
        ),
    ]
    return keras.Sequential(layers, name=name)


def cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The mean cross-entropy of logits ``[B, classes]`` and integer labels ``[B]``, a scalar."""
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )


def is_correct(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """1 if the largest of the logits ``[B, classes]`` is the label's, else 0; float32 ``[B]``."""
    return tf.cast(tf.argmax(logits, axis=1, output_type=labels.dtype) == labels, tf.float32)


class SharedProjection(keras.layers.Layer):
    """``e_t = normalise(W h_t)``: one linear map, shared by all tasks.

    It is shared because separate maps could satisfy the regularizer without changing the encoder.

    Args:
        width: the width of h and of e.
    """

    def __init__(self, width: int, name: str = "projection"):
        super().__init__(dtype="float32", name=name)
        self.kernel = self.add_weight(
            shape=(width, width), initializer="glorot_uniform", name="kernel"
        )
        self.built = True

    def call(self, h: tf.Tensor) -> tf.Tensor:
        """The embeddings e of ``h [..., width]``, float32 ``[..., width]`` of length 1."""
        return normalised(tf.tensordot(h, self.kernel.value, axes=1))
