"""Pretrained networks of other libraries: `keras.applications` and KerasHub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from registry import UserError

from .applications import load_application
from .heads import find_classifier, with_new_classifier
from .keras_hub_presets import is_preset, load_preset
from .logits import without_softmax
from .stored import Stored


def load_library_network(
    name: str,
    weights: str | None,
    input_shape: Sequence[int],
    classes: int,
    options: Mapping[str, Any] | None = None,
    *,
    keep_classifier: bool = False,
) -> Stored:
    """A network of another library with pretrained weights, from raw images, 0..255, to logits.

    Args:
        name: ``keras.applications:NAME`` or ``keras_hub:PRESET_OR_FOLDER``.
        weights: of a network of `keras.applications`, see `load_application`.
        input_shape: (height, width, channels) of the images.
        classes: number of classes of the data.
        options: of a function of `keras.applications`.
        keep_classifier: keep a classifier of other classes too.

    Returns:
        The network, whose `has_logits` is False where its classifier is new, and means nothing: it
        had none, or one for another number of classes.

    Raises:
        UserError: see `load_application` and `load_preset`.
    """
    if input_shape[-1] != 3:
        raise UserError(
            f"{name} is pretrained on images of 3 channels, not {input_shape[-1]}: give --channels "
            "3, or another network"
        )
    if is_preset(name):
        if options:
            raise UserError(f"{name} takes no options, not {', '.join(options)}: leave them out")
        model = load_preset(name, input_shape)
    else:
        model = load_application(name, weights, input_shape, classes, dict(options or {}))
    return with_classes(model, classes, keep_classifier=keep_classifier)


def with_classes(model: keras.Model, classes: int, *, keep_classifier: bool = False) -> Stored:
    """`model` for `classes`, as `load_library_network` gives it."""
    found = find_classifier(model)
    if found and (keep_classifier or found.classes == classes):
        return Stored(without_softmax(model), standardize=None, has_logits=True)
    return Stored(with_new_classifier(model, classes), standardize=None, has_logits=False)
