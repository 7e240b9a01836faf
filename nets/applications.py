"""The networks of `keras.applications`, by names such as ``keras.applications:MobileNetV2``.

They get fresh weights and as many classes as the data have. They declare no taps: a method that
compares maps needs names of their layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from registry import UserError, nearest, plain

from .fused import fuse_batch_normalization

PREFIX = "keras.applications:"


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
    name = application_name(name)
    function = getattr(keras.applications, name[len(PREFIX) :])
    try:
        model = function(
            weights=None, input_shape=tuple(input_shape), classes=classes,
            classifier_activation=None, **options,
        )
    except (ValueError, TypeError) as error:
        size = "x".join(map(str, input_shape))
        raise UserError(f"{name} for images of {size} and {classes} classes: {error}") from None
    return fuse_batch_normalization(model)
