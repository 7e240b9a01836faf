"""Properties of a network's structure that methods' defaults depend on."""

from __future__ import annotations

from typing import Any

import keras

from nets.keras_graph import operations_before, producer

_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def is_normalized(features: Any) -> bool:
    """Whether any layer before these features normalises; True if that is unknown.

    Args:
        features: symbolic tensors, in any structure of lists and dicts.
    """
    tensors = [tensor for tensor in keras.tree.flatten(features) if producer(tensor) is not None]
    if not tensors:
        return True
    return any(isinstance(each, _NORMALIZATIONS) for each in operations_before(tensors))
