"""Recompute the moving statistics of batch normalisation from images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .keras_graph import all_layers, replaced_call

Moments = dict[int, list[tuple[tf.Tensor, tf.Tensor]]]
"""Mean and variance of each call of each layer in a forward pass, by the layer's number."""


def recompute_batch_statistics(
    model: keras.Model, batches: Iterable[tf.Tensor | np.ndarray]
) -> int:
    """Set the moving statistics of batch normalisation to those of `batches`, in place.

    Moving averages lag behind the weights: with Keras' momentum of 0.99, the initial values still
    have a weight of one third after a hundred steps. Here each layer's mean and variance are
    computed over all positions of all batches, while each batch is normalised with its own
    statistics (as after weight averaging: Izmailov et al., "Averaging weights leads to wider
    optima", 2018). A few thousand training images suffice, at the cost of one forward pass each.

    All other layers run in inference mode, without dropout: equal batches give equal statistics,
    and no other variable changes. Frozen layers (``trainable = False``) keep their statistics. A
    model without batch normalisation is not changed, and its `batches` are not read.

    Args:
        model: functional, with batch normalisation at any depth (Keras' own, fused or
            synchronised) and any dtype policy. Under a distribution strategy, call this outside the
            strategy's functions; the statistics are set on all replicas.
        batches: preprocessed model inputs ``[B, H, W, C]``, at least one batch.

    Returns:
        The number of updated layers.

    Raises:
        ValueError: there are no batches, or the model does not call one of the layers.
    """
    layers = [
        layer for layer in all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not layers:
        return 0
    weights = np.zeros(len(layers))
    means: list[Any] = [0.0] * len(layers)
    squares: list[Any] = [0.0] * len(layers)
    with contextlib.ExitStack() as stack:
        moments: Moments = {}
        for place, layer in enumerate(layers):
            stack.callback(setattr, layer, "momentum", layer.momentum)
            layer.momentum = 0.0  # the moving statistics become those of the current batch
            stack.callback(setattr, layer, "renorm", layer.renorm)
            layer.renorm = False  # which normalises by moving statistics, and keeps more of them
            for variable, neutral in ((layer.moving_mean, 0), (layer.moving_variance, 1)):
                stack.callback(variable.assign, keras.ops.convert_to_numpy(variable))
                variable.assign(np.full(variable.shape, neutral))  # 0 times NaN is NaN
            stack.enter_context(replaced_call(layer, _recording(layer.call, place, moments)))
        # Eager, because tracing a graph takes longer than a few batches.
        for images in batches:
            moments.clear()
            model(tf.convert_to_tensor(images), training=False)
            for place, calls in moments.items():
                for mean, variance in calls:
                    mean, variance = np.float64(mean), np.float64(variance)
                    weights[place] += len(images)
                    means[place] += len(images) * mean
                    squares[place] += len(images) * (variance + mean**2)
    if not weights.all():
        raise ValueError("no batches to compute the statistics of batch normalisation from")
    for layer, weight, total, square in zip(layers, weights, means, squares, strict=True):
        mean = total / weight
        layer.moving_mean.assign(mean)
        variance = np.maximum(square / weight - mean**2, 0)
        layer.moving_variance.assign(variance)
        if layer.renorm:  # which keeps the variance as this
            layer.moving_stddev.assign(np.sqrt(variance + layer.epsilon))
    return len(layers)


def _recording(own: Callable[..., Any], place: int, moments: Moments) -> Callable[..., Any]:
    """Wrap a layer's ``call`` to run in training mode and record the statistics it computes."""
    def call(
        layer: keras.layers.BatchNormalization, inputs: Any, training: Any = None, mask: Any = None
    ) -> Any:
        outputs = own(inputs, training=True, mask=mask)
        moments.setdefault(place, []).append((
            tf.identity(tf.convert_to_tensor(layer.moving_mean)),
            tf.identity(tf.convert_to_tensor(layer.moving_variance)),
        ))
        return outputs

    return call
