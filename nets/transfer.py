"""Turn a pre-trained encoder into a network with a classifier: ``tte:RUN``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from registry import UserError

from .copying import copy_state
from .encoders import ENCODER_FILE, Encoder, load_encoder
from .preprocessing import Standardize
from .registration import build, declared_outputs, parse_options
from .stored import Stored, preprocessing_of, read_summary

PREFIX = "tte:"


def is_pretrained(text: str) -> bool:
    """Whether `text` has the form ``tte:RUN``."""
    return text.lower().startswith(PREFIX)


def _encoder(text: str) -> tuple[Encoder, Path]:
    folder = Path(text[len(PREFIX) :])
    if not (folder / ENCODER_FILE).exists():
        raise UserError(
            f"{text}: {folder} contains no {ENCODER_FILE}; give the folder of a finished run of "
            "pretrain_tte.py, as tte:FOLDER"
        )
    return load_encoder(folder), folder


def fill_from_encoder(model: keras.Model, text: str) -> Standardize | None:
    """Copy the weights of a pre-trained encoder into `model`, matching layers by name.

    Args:
        model: a model with the encoder's layers and further layers, which are not changed.
        text: ``tte:RUN``.

    Returns:
        The preprocessing that it was trained with; None where its run does not state it.

    Raises:
        UserError: there is no such encoder, or `model` lacks one of its layers or has it with a
            different shape.
    """
    encoder, folder = _encoder(text)
    own = {layer.name: layer for layer in model.layers}
    for layer in encoder.model.layers:
        weights = layer.get_weights()
        if not weights:
            continue
        shapes = [weight.shape for weight in weights]
        there = own[layer.name].get_weights() if layer.name in own else []
        if [weight.shape for weight in there] != shapes:
            found = [weight.shape for weight in there] if there else "no such layer"
            raise UserError(
                f"{text} is a {encoder.name} with weights {shapes} in layer {layer.name!r}, but "
                f"{model.name} has {found}: give the same network with the same options, "
                "as in the settings.json of that run"
            )
    for layer in encoder.model.layers:
        if layer.get_weights():
            copy_state(layer, own[layer.name])
    return preprocessing_of(folder / "summary.json")


def load_pretrained(text: str, input_shape: Sequence[int], classes: int) -> Stored:
    """Load a pre-trained encoder as a teacher: its network with an untrained classifier.

    Args:
        text: ``tte:RUN``.
        input_shape: (height, width, channels) of the images, for a registered network.
        classes: number of classes.

    Raises:
        UserError: see `fill_from_encoder`.
    """
    encoder, folder = _encoder(text)
    stated = read_summary(folder / "summary.json")
    if declared_outputs(encoder.name) is None:
        embedding = encoder.model.output["embedding"]
        logits = keras.layers.Dense(classes, dtype="float32", name="logits")(embedding)
        model = keras.Model(encoder.model.input, logits, name=encoder.name)
    else:
        stated_options = stated.get("options", [])
        if not isinstance(stated_options, list) or not all(
            isinstance(each, str) for each in stated_options
        ):
            raise UserError(
                f"{folder / 'summary.json'} is damaged: its options are {stated_options!r:.80}; "
                "expected a list of texts such as width=64"
            )
        options = parse_options(stated_options)
        model = build(encoder.name, input_shape, classes, **options)
        fill_from_encoder(model, text)
    return Stored(model, encoder.standardize, has_logits=False)
