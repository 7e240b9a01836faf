"""The layers of a model by the names that taps go by."""

from __future__ import annotations

from typing import NamedTuple

import keras

from .functional import is_functional
from .keras_graph import was_called


class ListedLayer(NamedTuple):
    """A layer: its name (``"inner/layer"`` within a model in the model), the shape that it gives
    for one image, and its number of parameters."""

    name: str
    shape: tuple[int | None, ...]
    parameters: int


def list_layers(model: keras.Model) -> list[ListedLayer]:
    """Each layer of a functional model that gives one tensor, in order, those of inner models
    included."""
    found = []
    for layer in model.layers:
        given = keras.tree.flatten(layer.output) if was_called(layer) else []
        if len(given) == 1:
            found.append(ListedLayer(layer.name, tuple(given[0].shape[1:]), layer.count_params()))
        if is_functional(layer):
            inner = list_layers(layer)
            found += [each._replace(name=f"{layer.name}/{each.name}") for each in inner]
    return found
