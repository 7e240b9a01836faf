"""Encoders: networks without their classifier, from raw images to a map and a vector an image."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from registry import UserError

from .copying import copy_model
from .features import find_tensors, tensors_of
from .functional import as_functional
from .inferred_preprocessing import infer_preprocessing
from .keras_graph import all_layers, calls_before, output_layer_of, reserve_names
from .preprocessing import Standardize
from .registration import declared_outputs
from .saved_models import check_saved_model
from .stored import load, load_model, preprocessing_of

ENCODER_FILE = "encoder.keras"
"""What the folder of a pre-training run calls its encoder."""

LARGEST_MOMENTUM = 0.9
"""Of batch normalisation in the short trainings of `trainable_copy`."""

_POOLED = "pooled_embedding"
_GLOBAL_POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """A network that represents images.

    Attributes:
        model: functional, from standardized float images ``[B, H, W, C]`` to the dict
            ``features``: the last map ``[B, h, w, D]``; ``embedding``: ``[B, E]`` float32.
        standardize: from raw images in 0..255 to what the model takes.
    """

    model: keras.Model
    standardize: Standardize

    @property
    def name(self) -> str:
        """The network's name."""
        return self.model.name

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        """(height, width, channels) that the model takes; None where any size will do."""
        return tuple(self.model.input_shape[1:])

    def __call__(self, images: tf.Tensor | np.ndarray) -> dict[str, tf.Tensor]:
        """``features`` and ``embedding`` of raw images, in inference mode.

        Args:
            images: ``[B, H, W, C]`` in 0..255. Of another size than the model's they are resized;
                grey ones (C = 1) serve a model of three channels.
        """
        return self.model(self.standardize(images), training=False)


def encoder_of(
    model: keras.Model, standardize: Standardize, embedding: str | None = None
) -> Encoder:
    """The encoder within a network; it shares the network's layers.

    Args:
        model: a registered network or any other functional model, with or without a classifier.
        standardize: the preprocessing that belongs to it. Where the model's input has a fixed
            size, images are resized to it.
        embedding: name of the layer that gives the embedding; a map is averaged over positions.
            None: what the registered network declares, else the model's last map.

    Raises:
        UserError: the model is not functional, has not one input of images, has no such layer,
            or no map ``[B, h, w, D]`` at or before it.
    """
    model = as_functional(model)
    reserve_names(model)  # it may have been read from a file by Keras itself
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise UserError(
            f"model {model.name!r} takes {', '.join(map(str, shapes))}; an encoder takes one input "
            "of images, (None, height, width, channels)"
        )
    if embedding is None:
        declared = declared_outputs(model.name)
        known = {operation.name for operation in model.operations}
        embedding = declared.embedding if declared and declared.embedding in known else None
    image, given = model.inputs[0], model.outputs[0]
    if embedding is not None:
        found = find_tensors(model, [embedding])
        image, given = keras.tree.flatten(found.input)[0], found.tensors[embedding]
    features = _last_map(keras.Model(image, given, name=model.name))
    if embedding is None or len(given.shape) == 4:
        given = keras.layers.GlobalAveragePooling2D(dtype="float32", name=_POOLED)(features)
    elif given.dtype != "float32":
        given = keras.ops.cast(given, "float32")
    outputs = {"features": features, "embedding": given}
    size = shapes[0][1:3]
    return Encoder(
        keras.Model(image, outputs, name=model.name),
        dataclasses.replace(standardize, size=size if all(size) else None),
    )


def _last_map(model: keras.Model) -> keras.KerasTensor:
    """The deepest ``[B, h, w, D]`` tensor that leads to the model's output, before global pooling:
    classifiers such as MobileNet's convolve what is pooled."""
    calls, pooled = tensors_of(model), _pooled(model)
    for operation in reversed(model.operations):
        tensors = calls[operation.name][-1]
        is_map = len(tensors) == 1 and len(tensors[0].shape) == 4 and id(tensors[0]) not in pooled
        if is_map and not isinstance(operation, keras.layers.InputLayer):
            return tensors[0]
    raise UserError(
        f"model {model.name!r} has no feature map [B, h, w, D] between its images and its "
        "embedding: an encoder needs one, for detection at least"
    )


def _pooled(model: keras.Model) -> set[int]:
    """The `id` of each tensor that was pooled over all positions, or made of such tensors alone."""
    found: set[int] = set()
    for call in calls_before(model.outputs):
        pools = isinstance(call.operation, _GLOBAL_POOLING)
        if pools or (call.inputs and all(id(each) in found for each in call.inputs)):
            found.update(map(id, call.outputs))
    return found


def load_encoder(
    path: str | os.PathLike, standardize: Standardize | None = None, *, infer: bool = False
) -> Encoder:
    """The encoder stored at `path`.

    - the folder of a pre-training run: ``encoder.keras``, whose output is the embedding;
    - the folder of a distillation run: the student;
    - ``.keras`` or ``.h5`` with a whole functional model.

    Args:
        path: see above.
        standardize: the preprocessing for a file that does not state its own; None: the images
            are brought from 0..255 to -1..1. It may be for another number of channels, see
            `Standardize.for_channels`.
        infer: whether to prefer what the model's layers or its name tell, see
            `infer_preprocessing`.

    Raises:
        UserError: nothing usable is there; see `nets.load`.
    """
    path = Path(path)
    file = path / ENCODER_FILE
    if file.exists():
        model, stated = load_model(file), preprocessing_of(path / "summary.json")
        stated = stated or _fallback(model, standardize, infer)
        return encoder_of(model, stated, output_layer_of(model.outputs[0]))
    stored = load(path)
    found = stored.standardize or _fallback(stored.model, standardize, infer)
    return encoder_of(stored.model, found)


def _fallback(model: keras.Model, standardize: Standardize | None, infer: bool) -> Standardize:
    found = infer_preprocessing(model) if infer else None
    channels = model.inputs[0].shape[-1]
    if found is None and standardize is None:
        return Standardize((127.5,) * channels, (127.5,) * channels)
    return found or standardize.for_channels(channels)


def trainable_copy(
    encoder: Encoder, size: tuple[int | None, int | None] | None = None
) -> Encoder:
    """`copy_encoder`, all of which is trained, whatever was frozen when the encoder was saved.

    Its moving statistics follow within some twenty steps (`LARGEST_MOMENTUM`): with a momentum of
    0.999, as MobileNetV2 has, 82 % of the old ones would be left after 200.
    """
    copy = copy_encoder(encoder, size)
    for layer in all_layers(copy.model):
        layer.trainable = True
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, LARGEST_MOMENTUM)
    return copy


def copy_encoder(
    encoder: Encoder, size: tuple[int | None, int | None] | None = None
) -> Encoder:
    """An encoder of the same layers and weights that shares no variable with `encoder`.

    Args:
        encoder: any.
        size: (height, width) of the images that the copy takes, which are then not resized;
            (None, None): any size. None: as `encoder`.

    Raises:
        UserError: the network cannot take images of that size (it has a layer that is tied to
            one, such as `Flatten` with a `Dense` layer after it).
    """
    model = encoder.model
    height, width = size or model.input_shape[1:3]
    image = keras.Input((height, width, model.input_shape[-1]), name=model.inputs[0].name)
    try:
        copy = copy_model(model, inputs=image if size else None)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"encoder {model.name!r} cannot take images of {height}x{width}, only of "
            f"{model.input_shape[1]}x{model.input_shape[2]} ({' '.join(str(error).split())[:150]})"
        ) from error
    new_size = encoder.standardize.size if size is None else None
    return Encoder(copy, dataclasses.replace(encoder.standardize, size=new_size))


class ExportedEncoder:
    """A SavedModel that gives ``embedding``, such as ``export/1`` of a pre-training run.

    It can be scored with frozen features, not trained.

    Attributes:
        name: for messages and tables.
        image_shape: (height, width, channels) that it takes.
    """

    def __init__(self, path: str | os.PathLike):
        """Raises UserError where `path` holds no such SavedModel, or one that does more than
        compute (see `nets.saved_models`)."""
        check_saved_model(Path(path))
        try:
            self._module = tf.saved_model.load(str(path))
            self._signature = self._module.signatures["serving_default"]
        # A file can state anything, so TensorFlow can fail in any way.
        except Exception as error:
            raise UserError(
                f"{path} is not a SavedModel for serving ({' '.join(str(error).split())[:150]}): "
                "give export/1 of a pre-training run"
            ) from error
        specification = self._signature.structured_input_signature[1].get("image")
        if specification is None or "embedding" not in self._signature.structured_outputs:
            raise UserError(
                f"{path} does not lead from image to embedding, but gives "
                f"{', '.join(sorted(self._signature.structured_outputs))}: give export/1 of a TTE "
                "run"
            )
        self.name = str(path)
        self.image_shape: tuple[int, int, int] = tuple(specification.shape[1:])

    def __call__(self, images: tf.Tensor | np.ndarray) -> dict[str, tf.Tensor]:
        """What the SavedModel gives of raw uint8 images ``[B, H, W, C]``: ``embedding``."""
        return self._signature(image=tf.cast(images, tf.uint8))
