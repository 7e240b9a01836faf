"""Which numbers a model expects of an image, as far as its layers and its name tell."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .functional import as_functional, is_functional
from .keras_graph import Call, calls_before
from .preprocessing import Standardize, named_preprocessing
from .random_layers import RANDOM_LAYERS
from .registration import declared_outputs_of

_RAW, _UNIT = 1.0, 255.0
"""What images of 0..255 are divided by for a model that takes 0..255, or 0..1."""

# Names that keras.applications gives its models, and their `preprocess_input`. Those with layers
# for it (EfficientNet, MobileNetV3, ConvNeXt, and all whose weights `load_application` loads) need
# no name. VGG and ResNet, version 1, are left out: with fresh weights they have the same names, and
# numbers from -124 to 151, as theirs are, hinder training.
_APPLICATIONS = (
    (r"mobilenet(v2)?_\d.*|mobilenetv3(small|large)|inception_v3|inception_resnet_v2|xception"
     r"|nasnet|resnet(50|101|152)v2|efficientnetv2-.*", "tf"),
    (r"densenet\d+", "torch"),
)

_INDIFFERENT = (
    keras.layers.InputLayer, keras.layers.Resizing, keras.layers.CenterCrop,
    keras.layers.ZeroPadding2D, keras.layers.Identity,
    *RANDOM_LAYERS,
)


def infer_preprocessing(model: keras.Model) -> Standardize | None:
    """The preprocessing that a functional model needs, where that can be told from it.

    - Its input is of whole numbers: images are given raw.
    - It begins with a `Rescaling`, an adapted `Normalization` or arithmetic with constants (in
      models within it, after resizing, random flips or swapped channels, too): images are given
      raw, 0..255, or in 0..1 where the layer's constants are made for these. So it is with
      EfficientNet, MobileNetV3 and ConvNeXt of `keras.applications`.
    - It is, or begins with, another model of `keras.applications` by its name: what that module's
      ``preprocess_input`` does, ``tf`` or ``torch``.

    Returns:
        None where none of these holds: a registered network, an unknown one, or VGG and ResNet,
        version 1, of `keras.applications`, which take ``caffe`` where they were trained on
        ImageNet.
    """
    model = as_functional(model)
    if declared_outputs_of(model) is not None or len(model.inputs) != 1:
        return None
    channels = model.inputs[0].shape[-1]
    if keras.backend.is_int_dtype(model.inputs[0].dtype):
        return Standardize((0.0,) * channels, (_RAW,) * channels)
    names = [model.name]
    for call in _chain(model):
        if is_functional(call.operation):
            names.append(call.operation.name)
            continue
        divisor = _divisor(call)
        if divisor is not None:
            return Standardize((0.0,) * channels, (divisor,) * channels)
        if not _is_indifferent(call):
            break
    ones = (1.0,) * channels
    for pattern, kind in _APPLICATIONS:
        if channels == 3 and any(re.fullmatch(pattern, name.lower()) for name in names):
            return named_preprocessing(kind, ones, ones)
    return None


def _chain(model: keras.Model) -> Generator[Call, None, bool]:
    """The calls that a model's input goes through one after another, while it is all there is; a
    call of an inner model before those within it. Channels that are taken apart and put together
    in another order are one call. Gives back whether that leads to the output."""
    calls = calls_before(model.outputs)
    tensor = model.inputs[0]
    while tensor is not model.outputs[0]:
        users = _users([tensor], calls)
        if len(users) > 1 and all(_name_of(call) == "GetItem" for call in users):
            users = _users([each for call in users for each in call.outputs], calls)
            if any(_name_of(call) not in ("Stack", "Concatenate") for call in users):
                return False
        if len(users) != 1 or not users[0].outputs:
            return False
        (call,) = users
        yield call
        if is_functional(call.operation):
            leads_through = yield from _chain(as_functional(call.operation))
            if not leads_through:
                return False
        tensor = call.outputs[0]
    return True


def _users(tensors: list[keras.KerasTensor], calls: Iterable[Call]) -> list[Call]:
    """The calls that are given any of the tensors."""
    return [call for call in calls if any(each is own for each in call.inputs for own in tensors)]


def _name_of(call: Call) -> str:
    return type(call.operation).__name__


def _divisor(call: Call) -> float | None:
    """By what images of 0..255 are to be divided for this call; None where it does not tell."""
    operation = call.operation
    if isinstance(operation, keras.layers.Rescaling):
        return (
            _of_factor(operation.scale) or _of_centre(operation.scale, operation.offset)
            or _of_offset(operation.offset)
        )
    if isinstance(operation, keras.layers.Normalization):
        return _of_statistics(operation)
    constants = [each for each in call.arguments if _is_constant(each)]
    if isinstance(operation, keras.Layer) or len(constants) != 1:
        return None
    constant = np.abs(np.asarray(constants[0], "float64")).max()
    if _name_of(call) in ("TrueDivide", "Divide") and constant:
        return _of_factor(1 / constant)
    if _name_of(call) == "Multiply":
        return _of_factor(constant)
    return _of_offset(constant) if _name_of(call) in ("Add", "Subtract") else None


def _is_constant(argument: Any) -> bool:
    if isinstance(argument, (int, float, np.ndarray)):
        return True
    return tf.is_tensor(argument) and not isinstance(argument, keras.KerasTensor)


def _of_factor(factor: Any) -> float | None:
    """A factor far below 1 makes large numbers small, one far above 1 small ones large."""
    largest = np.abs(np.asarray(factor, "float64")).max()
    return _RAW if largest < 0.1 else _UNIT if largest > 10 else None


def _of_offset(offset: Any) -> float | None:
    """What moves images by more than 2 moves those of 0..255."""
    return _RAW if np.abs(np.asarray(offset, "float64")).max() > 2 else None


def _of_centre(factor: Any, offset: Any) -> float | None:
    """What becomes 0 is about the middle of the images' range: 0.5 where 2 x - 1 is computed."""
    factor, offset = (np.asarray(each, "float64") for each in (factor, offset))
    centre = -offset / np.where(factor == 0, np.inf, factor)
    return _UNIT if ((centre > 0.2) & (centre < 0.8)).all() else None


def _of_statistics(layer: keras.layers.Normalization) -> float | None:
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(each), "float64")
        for each in (layer.mean, layer.variance)
    )
    if mean.max() > 2:
        return _RAW
    is_adapted = not (mean == 0).all() or not (variance == 1).all()
    return _UNIT if is_adapted and (mean > 0.1).all() and (variance < 0.25).all() else None


def _is_indifferent(call: Call) -> bool:
    """Whether the images stay in the range that they are in."""
    if isinstance(call.operation, keras.layers.Normalization):
        return True  # has not seen any data
    if isinstance(call.operation, keras.layers.Activation):
        return call.operation.activation is keras.activations.linear
    if isinstance(call.operation, keras.Layer):
        return isinstance(call.operation, _INDIFFERENT)
    return _name_of(call) in ("Cast", "GetItem", "Identity", "Flip", "Stack", "Concatenate")
