"""Models that end in a softmax or a sigmoid, made to give the logits before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from registry import UserError

from .copying import is_narrow
from .functional import as_functional, is_functional
from .keras_graph import Call, call_of, calls_before
from .sampling import sample_outputs

_NAMES = ("softmax", "sigmoid", "hard_sigmoid", "sparsemax", "sparse_sigmoid")
_FUNCTIONS = (
    *(getattr(keras.activations, name) for name in _NAMES),
    *(getattr(keras.ops, name) for name in _NAMES),
    tf.nn.softmax, tf.nn.sigmoid,
)
_OPERATIONS = {"Softmax", "Sigmoid", "HardSigmoid", "Sparsemax", "SparseSigmoid"}
"""Of `keras.ops`, by their class's name: Keras does not name the classes publicly."""

# What changes the type or the shape of its input, and no number.
_TRANSPARENT_LAYERS = (
    keras.layers.Identity, keras.layers.Reshape, keras.layers.Flatten, keras.layers.Dropout,
    keras.layers.ActivityRegularization,
)
_TRANSPARENT_OPERATIONS = {
    "Cast", "Reshape", "Squeeze", "ExpandDims", "Ravel", "Copy", "StopGradient", "Identity",
}
# What can give any number, unless it has an activation, which may be anybody's function.
_UNBOUNDED = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Conv2D)


def logits_alone(model: keras.Model) -> keras.Model:
    """A functional model with its logits as its only output: of several outputs, the one called
    ``logits`` (by its key in a dict, or by its layer), or else the first."""
    if isinstance(model, keras.Sequential) or isinstance(model.output, keras.KerasTensor):
        return model
    by_layer = dict(zip(model.output_names, model.outputs, strict=False))
    named = model.output if isinstance(model.output, Mapping) else by_layer
    return keras.Model(model.input, named.get("logits", model.outputs[0]), name=model.name)


def gives_probabilities(model: keras.Model) -> bool:
    """Whether a functional model's first output is that of a softmax or a sigmoid.

    It is found as a layer, as a layer's activation and as an operation of `keras.ops`, in models
    within the model too, and before whatever leaves the numbers as they are (casts, reshaping,
    dropout, linear activations) or averages them. Where the output comes from a layer that may or
    may not give probabilities, such as a sum of several, some random images are classified: in
    0..1, with a sum of 1 for each image, the outputs are taken for probabilities.
    """
    path, last = _search(model)
    if path or _is_unbounded(last.operation):
        return bool(path)
    return _averages_probabilities(last) or _sums_to_one(model)


def without_softmax(model: keras.Model) -> keras.Model:
    """`model` giving logits.

    Args:
        model: functional. If it gives logits already, it is returned as it is. If a layer such as
            `Dense` has the softmax (or sigmoid) as its activation, this very layer gets none, and
            `model` is returned.

    Returns:
        Otherwise a functional model of the same layers, the softmax left out.

    Raises:
        UserError: the model gives probabilities in another way.
    """
    path, call = _search(model)
    last = call.operation
    if not path:
        if gives_probabilities(model):
            raise UserError(
                f"model {model.name!r} gives probabilities, made by its layer {last.name!r}, and "
                "logits are needed: let it end in the layer that gives logits (a Dense without "
                "activation), or in its softmax alone"
            )
        return model
    graph = as_functional(path[-2].operation if len(path) > 1 else model)
    if sum(call.operation is last for call in calls_before(graph.outputs)) > 1:
        raise UserError(
            f"model {model.name!r} calls {last.name!r}, which makes its probabilities, several "
            "times, and logits are needed: let the model end in a layer without softmax"
        )
    if not isinstance(last, _ONLY_ACTIVATION) and hasattr(last, "activation"):
        last.activation = keras.activations.linear
        return model
    return _without(as_functional(model), path)


_ONLY_ACTIVATION = (keras.layers.Softmax, keras.layers.Activation)


def _search(model: keras.Model) -> tuple[list[Call], Call]:
    """Where a model's first output becomes probabilities.

    Returns:
        The calls of models that contain one another, then the call that makes probabilities; an
        empty list where there is none. And the last call that was looked at.
    """
    opened: list[Call] = []
    tensor = as_functional(model).outputs[0]
    while True:
        call = call_of(tensor)
        operation = call.operation
        if is_functional(operation):
            opened.append(call)
            place = _place(tensor, call.outputs)
            tensor = as_functional(operation).outputs[place]
        elif makes_probabilities(operation):
            return [*opened, call], call
        elif leaves_numbers(operation):
            tensor = call.inputs[0]
        elif isinstance(operation, keras.layers.InputLayer) and opened:
            outer = opened.pop()  # nothing in this inner model
            place = _place(tensor, as_functional(outer.operation).inputs)
            tensor = outer.inputs[place]
        else:
            return [], call


def _place(tensor: keras.KerasTensor, tensors: list[keras.KerasTensor]) -> int:
    return next(place for place, each in enumerate(tensors) if each is tensor)


def makes_probabilities(operation: keras.Operation) -> bool:
    """Whether an operation is a softmax or a sigmoid, or a layer with one as its activation."""
    if isinstance(operation, keras.Layer):
        activation = getattr(operation, "activation", None)
        made_by = (operation, activation)  # a layer may serve as an activation too
        return any(isinstance(each, keras.layers.Softmax) for each in made_by) or (
            activation in _FUNCTIONS
        )
    return type(operation).__name__ in _OPERATIONS


_MEANS = (
    keras.layers.Average, keras.layers.AveragePooling2D, keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
)


def _averages_probabilities(call: Call) -> bool:
    """Whether what a call averages are probabilities, as of a sigmoid at each position."""
    if not isinstance(call.operation, _MEANS):
        return False
    before = [call_of(tensor) for tensor in call.inputs]
    return all(makes_probabilities(each.operation) for each in before)


def _is_unbounded(operation: keras.Operation) -> bool:
    """Whether what an operation gives can be any number, so that it is no probability."""
    linear = getattr(operation, "activation", None) in (None, keras.activations.linear)
    return isinstance(operation, _UNBOUNDED) and linear


def leaves_numbers(operation: keras.Operation) -> bool:
    """Whether an operation changes the type or the shape of its input at most."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    if isinstance(operation, keras.Layer):
        return isinstance(operation, _TRANSPARENT_LAYERS)
    return type(operation).__name__ in _TRANSPARENT_OPERATIONS


def _without(model: keras.Model, path: list[Call]) -> keras.Model:
    """`model` with the same layers but the last call of `path`, which gives what it is given."""
    target = path[0].operation
    replacement = _without(as_functional(target), path[1:]) if len(path) > 1 else _first

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        return (replacement if operation is target else operation)(*args, **kwargs)

    # Without a compilation and a class of its own, which the copy would take over.
    plain = keras.Model(model.input, model.output, name=model.name)
    return keras.models.clone_model(
        plain, input_tensors=plain.input, clone_function=lambda layer: layer, call_function=call
    )


def _first(tensor: keras.KerasTensor, *args: Any, **kwargs: Any) -> keras.KerasTensor:
    return tensor


def _sums_to_one(model: keras.Model) -> bool:
    """Whether the first output for random images is in 0..1, and of sum 1 for each."""
    sampled = sample_outputs(model, count=4)
    if sampled is None:
        return False
    rows = sampled[0].reshape(len(sampled[0]), -1)
    tolerance = 0.02 if is_narrow(model) else 1e-3
    return (
        rows.shape[1] > 1
        and bool((rows >= 0).all() and (rows <= 1 + tolerance).all())
        and bool((abs(rows.sum(1) - 1) < tolerance).all())
    )
