"""Functional models, whatever they were built with."""

from __future__ import annotations

from typing import Any

import keras

from registry import UserError


def is_functional(model: Any) -> bool:
    """Whether the layers of `model` form a graph that is known before it is called."""
    return isinstance(model, keras.Model) and bool(getattr(model, "inputs", None))


def as_functional(model: Any) -> keras.Model:
    """`model` if it is functional, or a functional model of a `keras.Sequential`'s layers.

    Raises:
        UserError: the layers of `model` form no graph.
    """
    if not is_functional(model):
        raise UserError(
            f"a functional Keras model is needed, not {model!r}: "
            "build it with keras.Model(inputs, outputs), or a keras.Sequential with an Input"
        )
    if isinstance(model, keras.Sequential):
        # Its own `input` and `output` are those of its first call, in whatever model that was.
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return model
