"""Convolutions whose filter gradient is one matrix product, where that is faster.

On CPUs, TensorFlow's kernel for the filter gradient of a convolution needs more time than that for
the forward pass on small maps, and in bfloat16 with a stride several times as much. There the same
sum over images and positions is computed as ``windows^T upstream``: the windows are gathered into a
matrix with one row for each image and position, which costs little where a pixel has many channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf

from op_util.devices import Device, device_of

Padding = Literal["SAME", "VALID"]


class Limits(NamedTuple):
    """The convolutions whose filter gradient is faster as a matrix product.

    Attributes:
        positions: the most output positions, height times width.
        channels: the least channels of both maps.
    """

    positions: int
    channels: int


# By dtype, and whether the stride is above 1. Measured on one core of an AMD EPYC with avx512_bf16,
# batch 128, 3x3 kernels: within the limits, the product takes 0.2 to 0.9 times as long; beyond, the
# gathered windows take too long to write and read.
LIMITS: dict[tuple[tf.DType, bool], Limits] = {
    (tf.bfloat16, False): Limits(positions=16, channels=64),
    (tf.bfloat16, True): Limits(positions=64, channels=32),
    (tf.float32, False): Limits(positions=16, channels=512),
    (tf.float32, True): Limits(positions=16, channels=128),
}


class _Axis(NamedTuple):
    """How windows lie along the height or the width.

    Attributes:
        padding: zeros before and after the map.
        pixels: the number of the padded map's pixel for each position and place in the window,
            ``[positions, kernel]``.
    """

    padding: tuple[int, int]
    pixels: np.ndarray


def _axis(size: int, kernel: int, stride: int, padding: Padding) -> _Axis:
    if padding == "SAME":
        positions = -(-size // stride)
        missing = max((positions - 1) * stride + kernel - size, 0)
    else:
        positions = max((size - kernel) // stride + 1, 0)
        missing = 0
    pixels = stride * np.arange(positions)[:, None] + np.arange(kernel)
    return _Axis((missing // 2, missing - missing // 2), pixels)


def is_product_faster(
    device: Device,
    dtype: tf.DType,
    maps: Sequence[int | None],
    kernel: Sequence[int | None],
    strides: Sequence[int],
    padding: Padding,
) -> bool:
    """Whether `convolve` computes the filter gradient as a matrix product, see `LIMITS`.

    Args:
        device: see `op_util.devices.device_of`. Only on a CPU can the answer be yes: GPUs and
            XLA have good kernels for all sizes.
        dtype: of maps and kernel.
        maps: the shape ``[B, H, W, C_in]``; unknown sizes but B give False.
        kernel: the shape ``[h, w, C_in, C_out]``. Of 1x1 kernels with stride 1, the gradient is a
            plain matrix product in TensorFlow as well.
        strides: along height and width.
        padding: of the maps.
    """
    limits = LIMITS.get((dtype, max(strides) > 1))
    if device != "CPU" or limits is None or None in (*maps[1:], *kernel):
        return False
    if max(*kernel[:2], *strides) == 1:
        return False
    axes = zip(maps[1:3], kernel[:2], strides, strict=True)
    height, width = (len(_axis(*each, padding).pixels) for each in axes)
    return 0 < height * width <= limits.positions and min(kernel[2:]) >= limits.channels


def filter_gradient(
    maps: tf.Tensor,
    upstream: tf.Tensor,
    size: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
) -> tf.Tensor:
    """The gradient of a convolution with respect to its kernel, as one matrix product.

    Args:
        maps: the convolution's input ``[B, H, W, C_in]``, all but B known statically.
        upstream: the gradient with respect to its output, ``[B, H', W', C_out]``, same dtype.
        size: height and width of the kernel.
        strides: along height and width.
        padding: of the maps.

    Returns:
        ``[h, w, C_in, C_out]`` in the dtype of `maps`; sums of bfloat16 are made in float32.
    """
    rows, columns = (
        _axis(*each, padding) for each in zip(maps.shape[1:3], size, strides, strict=True)
    )
    padded = tf.pad(maps, [[0, 0], rows.padding, columns.padding, [0, 0]])
    height, width, channels = padded.shape[1:]
    pixels = rows.pixels[:, None, :, None] * width + columns.pixels[None, :, None, :]
    windows = tf.gather(tf.reshape(padded, [-1, height * width, channels]), pixels.ravel(), axis=1)
    product = tf.matmul(
        tf.reshape(windows, [-1, size[0] * size[1] * channels]),
        tf.reshape(upstream, [-1, upstream.shape[-1]]),
        transpose_a=True,
    )
    return tf.reshape(product, [*size, channels, upstream.shape[-1]])


def convolve(
    maps: tf.Tensor, kernel: tf.Tensor, strides: Sequence[int], padding: Padding
) -> tf.Tensor:
    """`tf.nn.conv2d`, with the faster way to compute the gradient with respect to the kernel.

    Gradients of any order equal those of `tf.nn.conv2d` up to rounding, and are deterministic in
    the first order.

    Args:
        maps: ``[B, H, W, C_in]``.
        kernel: ``[h, w, C_in, C_out]``, in the dtype of `maps`.
        strides: along height and width.
        padding: of the maps.

    Returns:
        ``[B, H', W', C_out]``.
    """
    strides = tuple(strides)
    if not is_product_faster(
        device_of(maps), maps.dtype, maps.shape, kernel.shape, strides, padding
    ):
        return tf.nn.conv2d(maps, kernel, strides, padding)

    @tf.custom_gradient
    def convolved(maps: tf.Tensor, kernel: tf.Tensor):
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            by_maps = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(maps), strides, padding)
            by_kernel = filter_gradient(maps, upstream, kernel.shape[:2], strides, padding)
            return by_maps, by_kernel

        return tf.nn.conv2d(maps, kernel, strides, padding), gradients

    return convolved(maps, kernel)
