"""A network with its preprocessing inside, as a Keras model of Keras' own layers."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from nets import Standardize


class RawImages(keras.layers.Layer):
    """Passes images of 0..255 on, and has the int8 converter take them as they are: as
    uint8 of scale 1 and zero 0, whatever the range of the images that it calibrates on."""

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return tf.quantization.fake_quant_with_min_max_args(images, 0.0, 255.0)


def serving_model(
    student: keras.Model,
    preprocessing: Standardize,
    image_shape: Sequence[int],
    *,
    for_integers: bool = False,
) -> keras.Model:
    """From raw images uint8 to probabilities.

    Args:
        student: functional, from float images to logits ``[N, classes]``; float32.
        preprocessing: of the student.
        image_shape: (H, W, C) of the raw images.
        for_integers: whether the model is to be converted to int8: it then takes
            the images as float32, in `RawImages`.

    Returns:
        A functional model from ``image`` ``[N, H, W, C]`` to ``probabilities`` float32
        ``[N, classes]``; it shares the student's layers.
    """
    dtype = "float32" if for_integers else "uint8"
    image = keras.Input(tuple(image_shape), dtype=dtype, name="image")
    if for_integers:
        maps = _convolve(
            RawImages(dtype="float32")(image), *_scale_and_offset(preprocessing),
            preprocessing.reverses,
        )
    else:
        scale, offset = (each.tolist() for each in _scale_and_offset(preprocessing))
        maps = keras.layers.Rescaling(scale, offset, dtype="float32", name="standardize")(image)
        if preprocessing.reverses:
            maps = keras.ops.flip(maps, axis=-1)
    # A resized sum of weight 1 commutes with the standardisation of each channel.
    maps = resize(maps, preprocessing.size or image_shape[:2])
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")
    return keras.Model(image, probabilities(student(maps)), name="student")


def _scale_and_offset(preprocessing: Standardize) -> tuple[np.ndarray, np.ndarray]:
    """What each channel of the raw images is multiplied by, and what is added, float64."""
    scale = 1 / np.float64(preprocessing.deviation)
    offset = -np.float64(preprocessing.mean) * scale
    return (scale[::-1], offset[::-1]) if preprocessing.reverses else (scale, offset)


def _convolve(
    maps: keras.KerasTensor, scale: np.ndarray, offset: np.ndarray, reverses: bool
) -> keras.KerasTensor:
    """``scale maps + offset`` for each channel, reversed or not, as a convolution: in int8 its
    kernel has a scale for each channel and its bias 32 bits, so that the result is rounded once."""
    if not reverses:
        layer = keras.layers.DepthwiseConv2D(1, dtype="float32", name="standardize")
        maps = layer(maps)
        layer.set_weights([scale.reshape(1, 1, -1, 1), offset])
        return maps
    layer = keras.layers.Conv2D(len(scale), 1, dtype="float32", name="standardize")
    maps = layer(maps)
    layer.set_weights([np.diag(scale)[:, ::-1].reshape(1, 1, *[len(scale)] * 2), offset[::-1]])
    return maps


def resize(maps: keras.KerasTensor, size: Sequence[int]) -> keras.KerasTensor:
    """Maps of another size, bilinear and antialiased as by `tf.image.resize`.

    Two matrix products, one for each axis: formats have no operation for antialiased shrinking, and
    `keras.layers.Resizing` lets the layers after it work in training mode.

    Args:
        maps: symbolic, ``[N, H, W, C]`` of known size.
        size: (height, width).
    """
    height, width, channels = maps.shape[1:]
    if (height, width) == tuple(size):
        return maps
    rows = keras.layers.EinsumDense(
        "nhwc,hk->nkwc", (size[0], width, channels), dtype="float32", name="resize_rows"
    )
    columns = keras.layers.EinsumDense(
        "nhwc,wk->nhkc", (size[0], size[1], channels), dtype="float32", name="resize_columns"
    )
    maps = columns(rows(maps))
    rows.set_weights([_interpolation(height, size[0])])
    columns.set_weights([_interpolation(width, size[1])])
    return maps


def _interpolation(length: int, resized: int) -> np.ndarray:
    """What each of `length` positions adds to each of the `resized` ones, float32."""
    each = np.eye(length, dtype="float32")[:, :, np.newaxis, np.newaxis]
    return tf.image.resize(each, (resized, 1), antialias=True).numpy()[:, :, 0, 0]
