"""The precision of losses and numbers, and matrix products in full float32 precision."""

from __future__ import annotations

import tensorflow as tf

TENSOR_FLOAT_32 = (8, 0)  # NVIDIA GPUs have it from this compute capability on


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
    """Cast `x` to float32 unless it is float32 or float64."""
    return x if x.dtype in (tf.float32, tf.float64) else tf.cast(x, tf.float32)


def epsilon_of(dtype: tf.DType) -> float:
    """The distance from 1 to the next larger number of `dtype`, float32 or float64."""
    return 2.0**-23 if dtype == tf.float32 else 2.0**-52


def rounds_products() -> bool:
    """Whether float32 matrix products are computed in TensorFloat-32, with a 10-bit mantissa.

    This is TensorFlow's default on GPUs that support it (see
    `tf.config.experimental.enable_tensor_float_32_execution`).
    """
    if not tf.config.experimental.tensor_float_32_execution_enabled():
        return False
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return any(one.get("compute_capability", (0, 0)) >= TENSOR_FLOAT_32 for one in details)


def product(
    a: tf.Tensor, b: tf.Tensor, *, transpose_a: bool = False, transpose_b: bool = False
) -> tf.Tensor:
    """`tf.matmul` in full float32 precision: uses float64 where TensorFlow would round products.

    Singular vectors need this precision: TensorFloat-32's relative error of 1e-3 would be divided
    by the gap between singular values.
    """
    is_rounded = a.dtype == tf.float32 and rounds_products()
    if is_rounded:
        a, b = tf.cast(a, tf.float64), tf.cast(b, tf.float64)
    found = tf.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    return tf.cast(found, tf.float32) if is_rounded else found
