"""The moving statistics of batch normalisation, computed anew from images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .keras_graph import all_layers, replaced_call

Moments = dict[int, list[tuple[tf.Tensor, tf.Tensor]]]
"""Mean and variance of each call of each layer in a pass, by the layer's place."""


def recompute_batch_statistics(
    model: keras.Model, batches: Iterable[tf.Tensor | np.ndarray]
) -> int:
    """Set the moving statistics of batch normalisation to those of `batches`, in place.

    Moving averages lag behind the weights: with Keras' momentum of 0.99 the first values still
    count for a third after a hundred steps. Here each layer's mean and variance become those over
    all positions of all batches, every batch being normalised by its own statistics on the way (as
    after weight averaging: Izmailov et al., "Averaging weights leads to wider optima", 2018).
    A few thousand training images are enough; the cost is that of classifying them.

    Everything but batch normalisation works in inference mode, so that no dropout is drawn: equal
    batches give equal statistics, and no other variable changes. A layer that is frozen
    (``trainable = False``) keeps its statistics, and a model without batch normalisation stays as
    it is, `batches` not being looked at.

    Args:
        model: functional, with batch normalisation at any depth, by Keras' own computation, the
            fused kernel or synchronised; of any dtype policy. Under a distribution strategy: call
            it outside of the strategy's functions; the statistics are set on all replicas.
        batches: what the model takes, preprocessed: ``[B, H, W, C]``, at least one batch.

    Returns:
        The number of layers whose statistics were set.

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
            layer.momentum = 0.0  # the moving statistics are then those of the batch at hand
            for variable, neutral in ((layer.moving_mean, 0), (layer.moving_variance, 1)):
                stack.callback(variable.assign, keras.ops.convert_to_numpy(variable))
                variable.assign(np.full(variable.shape, neutral))  # 0 times NaN is NaN
            stack.enter_context(replaced_call(layer, _recording(layer.call, place, moments)))
        # Not as a graph: making one takes longer than a few batches do.
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
        layer.moving_variance.assign(np.maximum(square / weight - mean**2, 0))
    return len(layers)


def _recording(own: Callable[..., Any], place: int, moments: Moments) -> Callable[..., Any]:
    """`own`, a layer's ``call``, in training mode, noting the statistics that it computes."""
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
