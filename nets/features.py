"""Taps, embedding and logits of any functional model: what a student learns from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from registry import UserError, nearest

from .functional import as_functional, is_functional
from .keras_graph import (
    call_of,
    calls_before,
    inner_output,
    operations_before,
    output_layer_of,
    reserve_names,
)
from .layers import widened_dtype
from .opened_layer import OpenedLayer
from .registration import Outputs, declared_outputs_of
from .tokens import token_grid, tokens_to_maps


def outputs_of(
    model: keras.Model,
    taps: Sequence[str] | None = None,
    embedding: str | None = None,
    logits: str | None = None,
) -> Outputs:
    """The layers of a model that its maps, embedding and logits come from.

    A layer of a model within the model is named ``"inner/layer"``. So is a layer within a layer
    that is no functional model, and there ``"encoder/3"`` is the fourth of its blocks: of those
    layers within it of whose class there are most.

    Args:
        model: a registered network (known by its name) or any other functional model.
        taps: names of layers, shallow to deep; None: those that the registered network declares.
        embedding: name of a layer; None: the declared one where it is among the taps, else the
            last tap.
        logits: name of a layer; None: the declared one, else the layer that makes the model's
            (first) output.

    Raises:
        UserError: the model is not functional, has no such layer, gives other than one tensor
            there, has the taps in another order, or is no registered network and no taps were
            named.
    """
    model = as_functional(model)
    declared = declared_outputs_of(model)
    if taps is None:
        if declared is None:
            raise UserError(
                f"model {model.name!r} is not a network of --net, so its taps must be named: "
                f"give the names of layers from shallow to deep; {_how_to_list(model)}"
            )
        taps = declared.taps
    if isinstance(taps, str) or not taps:
        raise UserError(f"taps of {model.name!r} must be a sequence of layer names, not {taps!r}")
    taps = tuple(taps)
    if embedding is None:
        embedding = declared.embedding if declared and declared.embedding in taps else taps[-1]
    if logits is None:
        logits = declared.logits if declared else output_layer_of(model.outputs[0])
    outputs = Outputs(taps, embedding, logits)
    found = find_tensors(model, _names_of(outputs))
    for one, next_one in itertools.pairwise(taps):
        if _leads_to(found.tensors[next_one], found.tensors[one]):
            raise UserError(
                f"taps of {model.name!r} go from shallow to deep, but {one!r} comes after "
                f"{next_one!r} in it: name them in the other order"
            )
    return outputs


def feature_extractor(model: keras.Model, outputs: Outputs) -> keras.Model:
    """A model that shares `model`'s layers and gives what a student is taught by.

    Args:
        model: any functional model.
        outputs: its layers, as `outputs_of` gives them.

    Returns:
        A functional model with `model`'s inputs and, as output, the dict ``maps``: list of the
        taps' outputs, ``[B, H, W, D]`` or ``[B, D]`` in the layers' own dtype, the tokens
        ``[B, N, D]`` of a transformer as maps of its patches (see `tokens_to_maps`), without those
        of the class and registers; ``embedding``: ``[B, D]``, averaged over positions where the
        layer gives a map, or over patches, at least float32;
        ``logits``: ``[B, classes]``, at least float32; ``outputs``: what `model` itself gives.

    Raises:
        UserError: the model is not functional, has no such layer, or gives other than one tensor
            there; or a layer has its channels first.
    """
    model = as_functional(model)
    reserve_names(model)  # it may have been read from a file by Keras itself
    image, given, found = find_tensors(model, _names_of(outputs))
    _check_channels_last(model, list(found.values()))
    embedding = _widened(_as_map(found[outputs.embedding], model))
    if len(embedding.shape) > 2:
        embedding = keras.ops.mean(embedding, axis=tuple(range(1, len(embedding.shape) - 1)))
    features = {
        "maps": [_as_map(found[name], model) for name in outputs.taps],
        "embedding": embedding,
        "logits": _widened(found[outputs.logits]),
        "outputs": given,
    }
    return keras.Model(image, features, name=f"{model.name}_features")


def _check_channels_last(model: keras.Model, tensors: Sequence[keras.KerasTensor]) -> None:
    """Raise UserError where a layer before `tensors` has channels first."""
    for operation in operations_before(tensors):
        if getattr(operation, "data_format", None) == "channels_first":
            raise UserError(
                f"layer {operation.name!r} of model {model.name!r} has "
                "data_format='channels_first', and taps are read as [B, H, W, D]: build the "
                "network with 'channels_last'"
            )


def _as_map(tensor: keras.KerasTensor, model: keras.Model) -> keras.KerasTensor:
    """A tap's output; tokens of images as a map where their number says of which."""
    shape = tuple(model.inputs[0].shape[1:])
    if len(tensor.shape) != 3 or len(shape) != 3 or None in (*shape[:2], *tensor.shape[1:]):
        return tensor
    return tokens_to_maps(tensor, shape[:2]) if token_grid(tensor.shape[1], shape[:2]) else tensor


def _leads_to(one: keras.KerasTensor, other: keras.KerasTensor) -> bool:
    """Whether `other` is computed from `one`, and is not the same."""
    made_by = call_of(other)
    if any(each is one for each in made_by.outputs):
        # Of one call: the same, or two outputs of a model within the model.
        inner = is_functional(made_by.operation) and one is not other
        return inner and _leads_to(inner_output(one), inner_output(other))
    return any(each is one for call in calls_before([other]) for each in call.outputs)


def _names_of(outputs: Outputs) -> list[str]:
    return list(dict.fromkeys((*outputs.taps, outputs.embedding, outputs.logits)))


def _widened(tensor: keras.KerasTensor) -> keras.KerasTensor:
    dtype = widened_dtype(tensor.dtype)
    return tensor if tensor.dtype == dtype else keras.ops.cast(tensor, dtype)


def _how_to_list(model: keras.Model) -> str:
    return f"nets.list_layers({model.name}) and the flag --list_layers list them"


def tensors_of(model: keras.Model) -> dict[str, list[list[keras.KerasTensor]]]:
    """What each layer gives within `model`: by its name, for each of its calls, the tensors.

    A layer's own `output` will not do: where the layer serves several models, or is called
    several times, it is the first call's, wherever that was.
    """
    calls: dict[str, list[list[keras.KerasTensor]]] = {}
    for call in calls_before(model.outputs):
        calls.setdefault(call.operation.name, []).append(call.outputs)
    return calls


def _only(
    model: keras.Model, name: str, calls: dict[str, list[list[keras.KerasTensor]]]
) -> keras.KerasTensor:
    """The one tensor that the layer `name` gives; raises UserError where it is not one."""
    if name not in calls:
        raise UserError(
            f"model {model.name!r} has no layer {name!r}{nearest(str(name), calls)}; "
            f"{_how_to_list(model)}"
        )
    if len(calls[name]) > 1:
        raise UserError(
            f"layer {name!r} is called {len(calls[name])} times in model {model.name!r}, so "
            "which output is meant is not clear: name a layer that is called once"
        )
    (tensors,) = calls[name]
    if len(tensors) != 1:
        raise UserError(
            f"layer {name!r} of model {model.name!r} gives {len(tensors)} tensors, and one is "
            "needed: name a layer that gives one"
        )
    return tensors[0]


class _Found(NamedTuple):
    """Tensors of one graph: a model's input and output (of any structure), and named layers'."""

    input: Any
    output: Any
    tensors: dict[str, keras.KerasTensor]


def find_tensors(model: keras.Model, names: Sequence[str]) -> _Found:
    """The tensors that the layers `names` of `model` give."""
    calls = tensors_of(model)
    inner_names: dict[str, list[str]] = {}
    for name in names:
        outer, slash, rest = str(name).partition("/")
        if slash:
            inner_names.setdefault(outer, []).append(rest)
    if not inner_names:
        tensors = {name: _only(model, name, calls) for name in names}
        return _Found(model.input, model.output, tensors)
    return _find_within(model, names, inner_names, calls)


def _find_within(
    model: keras.Model,
    names: Sequence[str],
    inner_names: dict[str, list[str]],
    calls: dict[str, list[list[keras.KerasTensor]]],
) -> _Found:
    """`find_tensors` where some layers lie in models within the model.

    A tensor within an inner model belongs to that model's own graph. So the outer graph is run
    anew, with the same layers, where the inner model returns those tensors along with its own
    output. It is computed once, and all weights and states stay shared.
    """
    opened = {name: _opened(model, name, inner_names[name], calls) for name in inner_names}
    found: dict[str, list[list[keras.KerasTensor]]] = {}

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        inner = opened.get(operation.name)
        given = (inner or operation)(*args, **kwargs)
        if inner is not None:
            given, within = given
            own, parts = inner.output if is_functional(inner) else (None, {})
            for name, tensor in within.items():
                is_output = parts.get(name) is own is not None
                found[f"{operation.name}/{name}"] = [[given if is_output else tensor]]
        found.setdefault(operation.name, []).append(keras.tree.flatten(given))
        return given

    # Without a compilation and a class of its own, which the copy would take over.
    plain = keras.Model(model.input, model.output, name=model.name)
    copy = keras.models.clone_model(plain, clone_function=lambda layer: layer, call_function=call)
    for tensor in copy.inputs:
        found[output_layer_of(tensor)] = [[tensor]]
    tensors = {name: _only(model, name, found) for name in names}
    return _Found(copy.input, copy.output, tensors)


def _opened(
    model: keras.Model,
    name: str,
    names: Sequence[str],
    calls: dict[str, list[list[keras.KerasTensor]]],
) -> keras.Layer:
    """The inner model or layer `name`, giving its output and a dict of what `names` in it give."""
    if len(calls.get(name, ())) != 1:
        _only(model, name, calls)
    inner = next((layer for layer in model.layers if layer.name == name), None)
    if not is_functional(inner):
        return OpenedLayer(inner, names, model.name)
    found = find_tensors(as_functional(inner), names)
    return keras.Model(found.input, (found.output, found.tensors), name=inner.name)
