"""A layer that also gives what the layers within it give."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import keras

from registry import UserError, nearest

from .keras_graph import Untracked, inner_layers, replaced_call


class OpenedLayer(keras.Layer):
    """Computes as another layer does, with its weights, and also returns the outputs of layers
    within it.

    Called as the other layer, it gives its output and a dict with a tensor for each of `names`.

    Args:
        layer: any that is no functional model, such as a transformer's encoder.
        names: of layers within it, ``"block"``, ``"block/attention"``, or their number among the
            layers of the class of which there are most, from 0: ``"3"``.
        model_name: of the model that the layer is in, for messages.

    Raises:
        UserError: there is no such layer. When called: it is not run exactly once, or does not give
            one tensor.
    """

    def __init__(self, layer: keras.Layer, names: Sequence[str], model_name: str):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.layer = layer
        self._place = f"layer {layer.name!r} of model {model_name!r}"
        self._inner = Untracked({name: self._find(name) for name in names})

    def _find(self, name: str) -> keras.Layer:
        found = self.layer
        for part in name.split("/"):
            within = inner_layers(found)
            known = {layer.name: layer for layer in within}
            known |= {str(place): layer for place, layer in enumerate(find_blocks(found))}
            if part not in known:
                raise UserError(
                    f"{self._place} holds no layer {name!r}{nearest(part, known)}; it holds: "
                    f"{', '.join(layer.name for layer in within) or 'none'}"
                )
            found = known[part]
        return found

    def build(self, *args: Any, **kwargs: Any) -> None:
        self.built = True  # `layer` is

    def call(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        given: dict[str, list[Any]] = {name: [] for name in self._inner.value}
        with contextlib.ExitStack() as stack:
            for name, layer in self._inner.value.items():
                noting = _noting(layer.call, given[name])
                stack.enter_context(replaced_call(layer, noting))
            output = self.layer(*args, **kwargs)
        for name, outputs in given.items():
            if len(outputs) != 1 or len(keras.tree.flatten(outputs[0])) != 1:
                raise UserError(
                    f"{self._place} calls {name!r} within it {len(outputs)} times, or gets more "
                    "than one tensor from it: name a layer that is called once and gives one"
                )
        return output, {name: outputs[0] for name, outputs in given.items()}


def find_blocks(layer: keras.Layer) -> list[keras.Layer]:
    """The blocks of a layer, in order: of the layers within it, those of the class of which there
    are most."""
    within = inner_layers(layer)
    kinds = Counter(type(each) for each in within)
    kind = max(kinds, key=kinds.get, default=None)  # the first of equally many
    return [each for each in within if type(each) is kind]


def _noting(own: Callable[..., Any], given: list[Any]) -> Callable[..., Any]:
    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        given.append(output)
        return output

    return call
