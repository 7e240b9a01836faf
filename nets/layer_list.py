"""The layers of a model by the names that taps go by."""

from __future__ import annotations

from typing import NamedTuple

import keras

from registry import UserError

from .functional import as_functional, is_functional
from .keras_graph import Call, calls_before, was_called
from .opened_layer import OpenedLayer, find_blocks


class ListedLayer(NamedTuple):
    """A layer: its name (``"inner/layer"`` within a model in the model, ``"encoder/3"`` for a block
    of a layer), the shape that it gives for one image, and its number of parameters."""

    name: str
    shape: tuple[int | None, ...]
    parameters: int


def list_layers(model: keras.Model) -> list[ListedLayer]:
    """Each layer of a functional model that gives one tensor, in order, those of inner models and
    the blocks of layers that are not Keras' own, such as a transformer's encoder, included."""
    calls = {call.operation.name: call for call in calls_before(as_functional(model).outputs)}
    found = []
    for layer in model.layers:
        given = keras.tree.flatten(layer.output) if was_called(layer) else []
        if len(given) == 1:
            found.append(ListedLayer(layer.name, tuple(given[0].shape[1:]), layer.count_params()))
        if is_functional(layer):
            inner = list_layers(layer)
            found += [each._replace(name=f"{layer.name}/{each.name}") for each in inner]
        elif layer.name in calls and not type(layer).__module__.startswith("keras."):
            found += _list_blocks(calls[layer.name], model.name)
    return found


def _list_blocks(call: Call, model_name: str) -> list[ListedLayer]:
    """The blocks of the layer that is called; none where they give more than one tensor."""
    blocks = find_blocks(call.operation)
    opened = OpenedLayer(call.operation, list(map(str, range(len(blocks)))), model_name)
    try:
        _, given = opened(*call.arguments, **call.keywords)
    except UserError:
        return []
    return [
        ListedLayer(
            f"{call.operation.name}/{number}", tuple(given[str(number)].shape[1:]),
            block.count_params(),
        )
        for number, block in enumerate(blocks)
    ]
