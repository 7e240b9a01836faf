"""Compute Keras' batch normalisation layers with TensorFlow's fused kernel.

Keras computes batch normalisation with elementary operations on float32 copies of the map: about
ten passes over memory, and more for the gradient, which is most of a small network's step time.
TensorFlow has a fused kernel for it. A layer that uses it remains a
`keras.layers.BatchNormalization`: saving, cloning and exporting are not affected.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from .keras_graph import all_layers, replace_call

_INPUTS = (tf.float32, tf.bfloat16, tf.float16)


def fuse_batch_normalization(layer: keras.Layer) -> keras.Layer:
    """Make every batch normalisation in `layer` use TensorFlow's fused kernel.

    The results equal Keras' up to rounding. Where the kernel does not apply, Keras' own computation
    is used: for maps that are not ``[B, H, W, C]`` of float32, bfloat16 or float16, for batch
    statistics synchronised over replicas, for masks, renormalisation, and layers without scale or
    offset. On a GPU, under `tf.config.experimental.enable_op_determinism`, TensorFlow refuses the
    gradient through a layer that is frozen or called with ``training=False``.

    Args:
        layer: a layer or a model, including its nested layers.

    Returns:
        `layer` itself.
    """
    for each in all_layers(layer):
        if type(each) is keras.layers.BatchNormalization:
            replace_call(each, _call)
    return layer


def _has_kernel(layer: keras.layers.BatchNormalization, maps: tf.Tensor, by_batch: bool) -> bool:
    """Whether the fused kernel applies. `by_batch`: whether to use the batch's statistics."""
    return (
        isinstance(maps, tf.Tensor)
        and maps.shape.rank == 4
        and layer.axis in (-1, 3)
        and maps.dtype in _INPUTS
        and maps.dtype == layer.compute_dtype
        and layer.scale
        and layer.center
        and not (by_batch and (layer.renorm or layer.synchronized))
    )


def _call(
    layer: keras.layers.BatchNormalization,
    inputs: tf.Tensor,
    training: bool | None = None,
    mask: tf.Tensor | None = None,
) -> tf.Tensor:
    """Replaces `keras.layers.BatchNormalization.call`."""
    by_batch = bool(training and layer.trainable)
    if mask is not None or not _has_kernel(layer, inputs, by_batch):
        return keras.layers.BatchNormalization.call(layer, inputs, training=training, mask=mask)
    scale, offset, mean, variance = (
        tf.cast(weight, tf.float32)
        for weight in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance)
    )
    if not by_batch:
        return tf.compat.v1.nn.fused_batch_norm(
            inputs, scale, offset, mean, variance, epsilon=layer.epsilon, is_training=False
        )[0]
    outputs, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
        inputs, scale, offset, epsilon=layer.epsilon, is_training=True
    )
    # The kernel divides the variance by the number of positions minus one; Keras does not subtract.
    positions = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), tf.float32)
    batch_variance *= tf.maximum(positions - 1, 1) / positions
    decay = layer.momentum
    layer.moving_mean.assign(mean * decay + batch_mean * (1 - decay))
    layer.moving_variance.assign(variance * decay + batch_variance * (1 - decay))
    return outputs
