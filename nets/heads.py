"""The classifier at the end of a network, and a new one in its place."""

from __future__ import annotations

from typing import NamedTuple

import keras

from registry import UserError

from .functional import as_functional, is_functional
from .keras_graph import Call, call_of, calls_before, output_layer_of, reserve_names
from .logits import leaves_numbers, makes_probabilities
from .tokens import token_grid

_CLASSIFIERS = (keras.layers.Dense, keras.layers.Conv2D)


class Classifier(NamedTuple):
    """The layer that makes a model's logits.

    Attributes:
        layer: a `Dense` without activation, or with that of probabilities; a convolution of a map
            of one position (MobileNet); or a `Dense` or 1x1 convolution without activation whose
            map is averaged over its positions (Network in Network).
        features: what it is given, symbolic.
        classes: number of logits.
    """

    layer: keras.Layer
    features: keras.KerasTensor
    classes: int


def find_classifier(model: keras.Model) -> Classifier | None:
    """The classifier of a functional model; None where the model ends in features.

    Raises:
        UserError: it lies in a model within the model.
    """
    found = _search(model)
    if not isinstance(found, Call):
        return found
    if find_classifier(found.operation) is None:
        return None
    raise UserError(
        f"the classifier of model {model.name!r} lies in the model {found.operation.name!r} within "
        "it, where no other can take its place: let the last Dense be a layer of the outer model"
    )


def embedding_layer(model: keras.Model) -> str:
    """The layer whose output a model's classifier is given, or the model's where it has none; in a
    model within the model, ``"inner/layer"``."""
    found = _search(model)
    if not isinstance(found, Call):
        return output_layer_of(found.features if found else as_functional(model).outputs[0])
    name = embedding_layer(found.operation)
    if name in map(output_layer_of, as_functional(found.operation).inputs):
        return output_layer_of(found.inputs[0])
    return f"{found.operation.name}/{name}"


def _search(model: keras.Model) -> Classifier | Call | None:
    """The classifier of a model, or the call of the model within it that makes its output; None:
    the output is features."""
    tensor = as_functional(model).outputs[0]
    if len(tensor.shape) != 2:
        return None
    classes = tensor.shape[-1]
    averaged = False
    while True:
        call = call_of(tensor)
        if isinstance(call.operation, _CLASSIFIERS):
            gives_logits = _is_linear_at_each_position if averaged else _gives_logits
            if not gives_logits(call.operation):
                return None
            return Classifier(call.operation, call.inputs[0], classes)
        if is_functional(call.operation):
            return call
        if isinstance(call.operation, keras.layers.GlobalAveragePooling2D) and not averaged:
            averaged = True
        elif not leaves_numbers(call.operation) and (
            # Behind an activation at each position the mean is one of probabilities or features.
            averaged or not makes_probabilities(call.operation)
        ):
            return None
        tensor = call.inputs[0]


def _gives_logits(layer: keras.Layer) -> bool:
    """Whether a layer's numbers are logits, but for a softmax or sigmoid at its end; behind another
    activation they are features."""
    return layer.activation is keras.activations.linear or makes_probabilities(layer)


def _is_linear_at_each_position(layer: keras.Layer) -> bool:
    if layer.activation is not keras.activations.linear:
        return False
    return isinstance(layer, keras.layers.Dense) or set(layer.kernel_size) == {1}


def with_new_classifier(model: keras.Model, classes: int) -> keras.Model:
    """`model` with a new layer ``logits`` for `classes`, on the features before its own classifier.

    Args:
        model: functional, with a classifier or without. Its other layers are shared.
        classes: number of classes.

    Returns:
        A functional model to float32 logits ``[B, classes]``. What they are made of, ``[B, D]``,
        is the layer ``features``: a map ``[B, H, W, D]`` is averaged; of tokens ``[B, N, D]`` the
        first is taken where it is one for the class, else their mean.

    Raises:
        UserError: the model ends in neither.
    """
    model = as_functional(model)
    reserve_names(model)  # it may have been read from a file by Keras itself
    found = find_classifier(model)
    features = found.features if found else model.outputs[0]
    features = _vector(features, model)
    taken = {call.operation.name for call in calls_before([features])}
    features = keras.layers.Identity(name=_free_name("features", taken))(features)
    name = _free_name("logits", taken)
    logits = keras.layers.Dense(classes, dtype="float32", name=name)(features)
    return keras.Model(model.input, logits, name=model.name)


def _vector(features: keras.KerasTensor, model: keras.Model) -> keras.KerasTensor:
    if len(features.shape) == 4:
        return keras.layers.GlobalAveragePooling2D()(features)
    if len(features.shape) == 3:
        known = None not in (features.shape[1], *model.inputs[0].shape[1:3])
        grid = token_grid(features.shape[1], model.inputs[0].shape[1:3]) if known else None
        if grid is None or not grid[0]:
            return keras.layers.GlobalAveragePooling1D()(features)
        return features[:, 0]
    if len(features.shape) == 2:
        return features
    raise UserError(
        f"model {model.name!r} ends in features of shape {tuple(features.shape)}; expected maps "
        "(None, height, width, channels), tokens (None, number, width) or vectors (None, width)"
    )


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, or with a number where it is taken."""
    names = [name, *(f"{name}_{number}" for number in range(1, len(taken) + 1))]
    return next(each for each in names if each not in taken)
