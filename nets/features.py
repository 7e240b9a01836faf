"""What of a network a student is taught by: taps, embedding and logits of any functional model."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from registry import UserError, nearest

from .layers import at_least_float32
from .registration import Outputs, declared_outputs


def outputs_of(
    model: keras.Model,
    taps: Sequence[str] | None = None,
    embedding: str | None = None,
    logits: str | None = None,
) -> Outputs:
    """The layers of a model that its maps, embedding and logits come from.

    Args:
        model: a registered network (known by its name) or any other functional model.
        taps: names of layers, shallow to deep; None: those that the registered network declares.
        embedding: name of a layer; None: the declared one, else the last tap.
        logits: name of a layer; None: the declared one, else the layer that makes the model's
            (first) output.

    Raises:
        UserError: the model is not functional, has no such layer, or is no registered network
            and no taps were named.
    """
    _check_functional(model)
    declared = declared_outputs(model.name)
    if taps is None:
        if declared is None:
            raise UserError(
                f"model {model.name!r} is no registered network, so its taps must be named: "
                f"give the names of layers from shallow to deep ({_how_to_list(model)})"
            )
        taps = declared.taps
        embedding = embedding or declared.embedding
    if isinstance(taps, str) or not taps:
        raise UserError(f"taps of {model.name!r} must be a sequence of layer names, not {taps!r}")
    if logits is None:
        logits = declared.logits if declared else _maker(model, model.outputs[0])
    outputs = Outputs(tuple(taps), embedding or taps[-1], logits)
    for name in (*outputs.taps, outputs.embedding, outputs.logits):
        _tensor(model, name)
    return outputs


def feature_extractor(model: keras.Model, outputs: Outputs) -> keras.Model:
    """A model that shares `model`'s layers and gives what a student is taught by.

    Args:
        model: any functional model.
        outputs: its layers, as `outputs_of` gives them.

    Returns:
        A functional model with `model`'s inputs and, as output, the dict ``maps``: list of the
        taps' outputs, ``[B, H, W, D]`` or ``[B, D]`` in the layers' own dtype; ``embedding``:
        ``[B, D]``, averaged over positions where the layer gives a map, at least float32;
        ``logits``: ``[B, classes]``, at least float32.

    Raises:
        UserError: the model is not functional or has no such layer.
    """
    _check_functional(model)
    maps = [_tensor(model, name) for name in outputs.taps]
    embedding = _widened(_tensor(model, outputs.embedding))
    if len(embedding.shape) > 2:
        embedding = keras.ops.mean(embedding, axis=tuple(range(1, len(embedding.shape) - 1)))
    logits = _widened(_tensor(model, outputs.logits))
    features = {"maps": maps, "embedding": embedding, "logits": logits}
    return keras.Model(model.input, features, name=f"{model.name}_features")


def _widened(tensor: keras.KerasTensor) -> keras.KerasTensor:
    dtype = at_least_float32(tensor.dtype)
    return tensor if tensor.dtype == dtype else keras.ops.cast(tensor, dtype)


def _check_functional(model: keras.Model) -> None:
    if not (isinstance(model, keras.Model) and getattr(model, "inputs", None)):
        raise UserError(f"a functional Keras model is needed, not {model!r}")


def _how_to_list(model: keras.Model) -> str:
    return "[layer.name for layer in model.layers] lists them"


def _tensor(model: keras.Model, name: str) -> keras.KerasTensor:
    """The output of the layer `name` within `model`."""
    known = {layer.name: layer for layer in model.layers}
    if name not in known:
        raise UserError(
            f"model {model.name!r} has no layer {name!r}{nearest(str(name), known)}; "
            f"{_how_to_list(model)}"
        )
    return known[name].output


def _maker(model: keras.Model, tensor: keras.KerasTensor) -> str:
    """The name of the layer that makes a tensor of `model`."""
    return next(layer.name for layer in model.layers if layer.output is tensor)
