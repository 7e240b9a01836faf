"""The networks of `keras.applications`, by names such as ``keras.applications:MobileNetV2``.

They get fresh weights and as many classes as the data have, or pretrained weights with the
preprocessing that these were trained with as their first layers. They declare no taps: a method
that compares maps needs names of their layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from registry import UserError, nearest, plain

from .downloads import downloading
from .fused import fuse_batch_normalization
from .heads import find_classifier
from .keras_graph import numbered_anew
from .weights import fill_in_order, stored_shapes

PREFIX = "keras.applications:"
IMAGENET = "imagenet"
_IMAGENET_CLASSES = 1000


def is_application(name: str) -> bool:
    """Whether `name` is of the form ``keras.applications:NAME``."""
    return name.lower().startswith(PREFIX)


def application_name(name: str) -> str:
    """`name` as Keras spells it. Raises UserError, naming the nearest, where Keras has none."""
    wanted = name[len(PREFIX) :]
    known = [
        entry for entry, value in vars(keras.applications).items()
        if callable(value) and entry[0].isupper()
    ]
    for entry in known:
        if plain(entry) == plain(wanted):
            return PREFIX + entry
    raise UserError(
        f"keras.applications has no network {wanted!r}{nearest(wanted, known)}; it has: "
        f"{', '.join(sorted(known))}"
    )


def build_application(
    name: str, input_shape: Sequence[int], classes: int, options: dict[str, Any]
) -> keras.Model:
    """A network of `keras.applications` with fresh weights, from images to logits.

    Args:
        name: ``keras.applications:NAME``.
        input_shape: (height, width, channels) of the images.
        classes: number of classes.
        options: of its function, for example ``alpha``.

    Raises:
        UserError: Keras has no such network, or it does not take such images or options.
    """
    function = _function(name)
    model = _made(name, function, classes=classes, input_shape=tuple(input_shape), **options)
    return fuse_batch_normalization(model)


def load_application(
    name: str,
    weights: str,
    input_shape: Sequence[int],
    classes: int,
    options: dict[str, Any],
) -> keras.Model:
    """A network of `keras.applications` with pretrained weights, from raw images, 0..255.

    Its first layers are the preprocessing that its family was trained with.

    Args:
        name: ``keras.applications:NAME``.
        weights: ``imagenet``, which Keras downloads unless it has them, or a file of weights
            (``.weights.h5``, or ``.h5`` of earlier versions of Keras), with or without classifier.
        input_shape: (height, width, channels) of the images.
        classes: number of classes of the data. ImageNet's classifier, which is for images of one
            size, is loaded where there are as many.
        options: of its function, for example ``alpha``.

    Returns:
        A functional model that ends in its classifier (`nets.heads.find_classifier`), if the
        weights have one, whatever its classes; else in pooled features ``[B, D]``.

    Raises:
        UserError: Keras has no such network, it does not take such images or options, the file
            does not fit it, or the download fails.
    """
    function = _function(name)
    preprocessing = _find_preprocessing(function)
    if weights == IMAGENET:
        has_top = classes == _IMAGENET_CLASSES
        shape = None if has_top else tuple(input_shape)
        file = "--teacher_weights or --student_weights FILE"
        with downloading(f"ImageNet's weights of {name}", file):
            model = _made(
                name, function, preprocessing, weights=IMAGENET, include_top=has_top,
                input_shape=shape, **options,
            )
        return fuse_batch_normalization(model)
    path = _check_file(weights)
    given = {"preprocessing": preprocessing, "input_shape": tuple(input_shape), **options}
    model = _made(name, function, classes=classes, **given)
    shapes = stored_shapes(path).get(find_classifier(model).layer.name)
    if shapes is None:
        model = _made(name, function, include_top=False, **given)
    elif shapes[0][-1] != classes:
        model = _made(name, function, classes=shapes[0][-1], **given)
    fill_in_order(path, model)
    return fuse_batch_normalization(model)


def _function(name: str) -> Callable[..., keras.Model]:
    return getattr(keras.applications, application_name(name)[len(PREFIX) :])


def _check_file(weights: str) -> Path:
    path = Path(weights)
    if not path.exists():
        raise UserError(f"weights {weights} do not exist; expected imagenet or a file of weights")
    if path.suffix != ".h5":
        raise UserError(
            f"{weights} is not a file of weights (.weights.h5 or .h5); a whole model is given by "
            "itself, as --teacher_model FILE.keras"
        )
    return path


class _Preprocessing(NamedTuple):
    """``image * scale + offset`` by channel, the channels being reversed before (red, green, blue
    to blue, green, red) or not."""

    reverses: bool
    scale: list[float]
    offset: list[float]


def _find_preprocessing(function: Callable[..., keras.Model]) -> _Preprocessing | None:
    """What the ``preprocess_input`` of a network's family does; None: nothing.

    It is a linear map of each pixel, so it is found from what becomes of black, red, green and
    blue.
    """
    family = getattr(keras.applications, function.__module__.rpartition(".")[2])
    pixels = np.concatenate([np.zeros([1, 3]), 255 * np.eye(3)])
    offset, *colours = family.preprocess_input(pixels.reshape(1, 1, 4, 3).copy())[0, 0]
    matrix = (np.array(colours) - offset) / 255
    if np.allclose(matrix, np.eye(3)) and not np.any(offset):
        return None
    reverses = not np.any(np.diag(matrix)[[0, 2]])
    scale = np.diag(matrix[::-1] if reverses else matrix)
    return _Preprocessing(reverses, scale.tolist(), offset.tolist())


def _made(
    name: str,
    function: Callable[..., keras.Model],
    preprocessing: _Preprocessing | None = None,
    *,
    input_shape: tuple[int, ...] | None,
    classes: int = _IMAGENET_CLASSES,
    include_top: bool = True,
    **options: Any,
) -> keras.Model:
    """Call Keras' function. A network without its top ends in pooled features.

    Layers that it gives no names are called alike in each process and at each call, so that taps
    can be named.
    """
    given = {"weights": None, "input_shape": input_shape, "include_top": include_top, **options}
    given |= {"classes": classes, "classifier_activation": None} if include_top else {
        "pooling": "avg"
    }
    try:
        if preprocessing is not None:
            given["input_tensor"] = _preprocessed(preprocessing, function, given)
        with numbered_anew():
            model = function(**given)
    except (ValueError, TypeError) as error:
        size = "x".join(map(str, input_shape or ("its own size",)))
        cause = " ".join(str(error).split())
        raise UserError(f"{name} for images of {size} and {classes} classes: {cause}") from None
    # Keras makes a list of one input of an input_tensor, and warns where a tensor is given.
    return keras.Model(model.inputs[0], model.outputs[0], name=model.name)


def _preprocessed(
    preprocessing: _Preprocessing, function: Callable[..., keras.Model], given: dict[str, Any]
) -> keras.KerasTensor:
    shape = given["input_shape"] or function(**{**given, "weights": None}).input_shape[1:]
    image = pixels = keras.Input(shape, name="image")
    if preprocessing.reverses:
        pixels = keras.ops.flip(image, axis=-1)
    # In float32 under a mixed policy too: numbers up to 255 have no fractions in bfloat16.
    return keras.layers.Rescaling(
        preprocessing.scale, preprocessing.offset, dtype="float32", name="preprocessing"
    )(pixels)
