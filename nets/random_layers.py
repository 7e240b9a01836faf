"""Layers within a network that change images at random in training."""

from __future__ import annotations

import keras

from .keras_graph import all_layers

_OTHERS = ("AugMix", "CutMix", "MixUp")
RANDOM_LAYERS: tuple[type[keras.Layer], ...] = tuple(
    getattr(keras.layers, name) for name in dir(keras.layers)
    if name.startswith("Rand") or name in _OTHERS
)


def describe_random_layers(student: keras.Model) -> list[str]:
    """A warning where a student sees other views of the images than its teacher, in which such
    layers do nothing."""
    found = [layer.name for layer in all_layers(student) if isinstance(layer, RANDOM_LAYERS)]
    return [
        f"warning: layers of the student change its images at random ({', '.join(found)}), so it "
        "sees other views than the teacher: save it without them, and give --flip, --rotation and "
        "the like instead, which change the images of both"
    ] if found else []
