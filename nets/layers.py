"""Layers shared by the network families of this package."""

from __future__ import annotations

import keras
import tensorflow as tf

from registry import UserError

from .fused import fuse_batch_normalization


def widened_dtype(dtype: str) -> str:
    """The wider of `dtype` and float32, for values that losses are computed from."""
    return keras.backend.result_type(dtype, "float32")


def logits_layer(classes: int) -> keras.layers.Dense:
    """The last layer, named ``logits``. It computes in at least float32 under any dtype policy."""
    dtype = widened_dtype(keras.config.dtype_policy().compute_dtype)
    return keras.layers.Dense(classes, kernel_initializer="he_normal", dtype=dtype, name="logits")


def batch_normalization(
    name: str, dtype: str | None = None, center: bool = True
) -> keras.layers.BatchNormalization:
    """Batch normalisation with the paper's decay 0.9 and epsilon 1e-3, using the fused kernel.

    Under a distribution strategy with several replicas, it uses the global batch's statistics.

    Args:
        name: the layer's name.
        dtype: the dtype to compute in; None uses the global policy's.
        center: whether to learn an offset.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    layer = keras.layers.BatchNormalization(
        momentum=0.9, epsilon=1e-3, center=center, synchronized=replicas > 1, dtype=dtype, name=name
    )
    return fuse_batch_normalization(layer)


def normalised_convolution(
    maps: keras.KerasTensor, width: int, size: int, name: str, strides: int = 1
) -> keras.KerasTensor:
    """A convolution without bias, followed by batch normalisation."""
    convolution = keras.layers.Conv2D(
        width,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )
    return batch_normalization(f"{name}_bn")(convolution(maps))


def pad_channels(maps: keras.KerasTensor, width: int) -> keras.KerasTensor:
    """Pad `maps` with zero channels on both sides to `width` channels."""
    missing = width - maps.shape[-1]
    if missing:
        before = missing // 2
        maps = keras.ops.pad(maps, ((0, 0), (0, 0), (0, 0), (before, missing - before)))
    return maps


def check_fraction(network: str, option: str, value: float) -> None:
    """Raise UserError unless 0 <= `value` < 1."""
    if not (isinstance(value, (int, float)) and 0 <= value < 1):
        raise UserError(f"network {network}: {option} must be >= 0 and < 1, not {value!r}")


def check_count(network: str, option: str, value: int) -> None:
    """Raise UserError unless `value` is a whole number >= 1."""
    if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        raise UserError(f"network {network}: {option} must be a whole number >= 1, not {value!r}")
