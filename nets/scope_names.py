"""Names of models and layers by which TensorFlow can call the scopes of their operations."""

from __future__ import annotations

import re

import keras

from registry import UserError

from .keras_graph import all_layers

_SCOPE = re.compile(r"[A-Za-z0-9_.\\/>-]*")


def check_layer_names(model: keras.Model) -> None:
    """Raise UserError where a layer has a name by which TensorFlow cannot call its scope."""
    for layer in all_layers(model):
        if not _SCOPE.fullmatch(layer.name):
            raise UserError(
                f"the layer {layer.name!r} of model {model.name!r} has a name that TensorFlow "
                "cannot use: rename it with letters, digits, '_', '-' and '.', and save it again"
            )


def scope_name(name: str) -> str:
    """`name` as TensorFlow can call a scope."""
    usable = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return usable if usable[0].isalnum() else f"model{usable}"
