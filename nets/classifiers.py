"""Find the dense layer that computes a network's logits, and its input."""

from __future__ import annotations

from typing import Any

import keras

from .keras_graph import Call, call_of, innermost
from .logits import leaves_numbers
from .quantization import FakeQuantize


def classifier_of(logits: Any) -> keras.layers.Dense | None:
    """The linear dense layer that computes symbolic logits ``[B, classes]``.

    None if they come from another kind of layer, or if `logits` is not a symbolic tensor of a
    graph.
    """
    call = _made_by(logits)
    layer = call.operation if call else None
    is_linear = getattr(layer, "activation", None) in (None, keras.activations.linear)
    return layer if isinstance(layer, keras.layers.Dense) and is_linear else None


def averages_for_logits(logits: Any, maps: Any) -> bool:
    """Whether symbolic logits are a linear function of `maps` averaged over positions.

    Args:
        logits: logits for which `classifier_of` finds a layer.
        maps: symbolic, ``[B, H, W, D]``.
    """
    call = _made_by(logits)
    pooled = _made_by(call.inputs[0]) if call else None
    if pooled is None or not isinstance(pooled.operation, keras.layers.GlobalAveragePooling2D):
        return False
    return _source(pooled.inputs[0]) is _source(maps)


def _made_by(tensor: Any) -> Call | None:
    """The call that computed a symbolic tensor, skipping layers that only pass it on."""
    return call_of(_source(tensor))


def _source(tensor: Any) -> Any:
    """What a symbolic tensor is without the layers that only pass it on: a layer's output, within
    models within the model too."""
    tensor = innermost(tensor)
    call = call_of(tensor)
    while call and _passes_on(call.operation) and len(call.inputs) == 1:
        tensor = innermost(call.inputs[0])
        call = call_of(tensor)
    return tensor


def _passes_on(operation: keras.Operation) -> bool:
    """Whether an operation changes the dtype, precision or shape of its input at most, or, in
    training, drops a part."""
    return leaves_numbers(operation) or isinstance(operation, FakeQuantize)
