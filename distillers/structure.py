"""Properties of a network's structure that methods' defaults depend on."""

from __future__ import annotations

from typing import Any

import keras

from nets.keras_graph import all_layers, operations_before, producer

_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def has_normalization(features: Any) -> bool:
    """Whether any layer before these features normalises, or a layer within it, as in the encoder
    of a transformer; True if that is unknown.

    Args:
        features: symbolic tensors, in any structure of lists and dicts.
    """
    tensors = [tensor for tensor in keras.tree.flatten(features) if producer(tensor) is not None]
    if not tensors:
        return True
    return any(
        isinstance(layer, _NORMALIZATIONS)
        for each in operations_before(tensors) if isinstance(each, keras.Layer)
        for layer in all_layers(each)
    )
