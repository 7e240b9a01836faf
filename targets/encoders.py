"""Encoders to be scored, by what a person calls them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

import dataloader
import nets
from registry import UserError, nearest
from targets.embeddings import Representation, images_at_once, raw_pixels

RANDOM, PIXELS = "random:", "pixels"


def is_export(text: str) -> bool:
    """Whether `text` is the folder of a SavedModel."""
    return (Path(text) / "saved_model.pb").exists()


def open_encoder(
    text: str,
    images: dataloader.Split,
    standardize: nets.Standardize,
    of_files: nets.Standardize,
    net_options: Sequence[str] = (),
    seed: int = 0,
) -> Representation:
    """The encoder called `text`.

    Args:
        text: the folder of a run, a Keras model, RUN/export/1, ``random:NET``, ``random:RUN`` or
            ``pixels``.
        images: by which fresh weights get their batch statistics; ``pixels`` and registered
            networks take images of this size.
        standardize: the preprocessing of registered networks with fresh weights.
        of_files: the preprocessing of files, which do not state any.
        net_options: of registered networks, as name=value.
        seed: of fresh weights, which are those that a run with this seed begins with.

    Raises:
        UserError: there is no such encoder.
    """
    if text == PIXELS:
        return raw_pixels(images.image_shape)
    if text.startswith(RANDOM):
        name = text.removeprefix(RANDOM)
        if Path(name).exists():
            encoder = with_fresh_weights(nets.load_encoder(name, of_files), seed)
        else:
            options = nets.parse_options(net_options)
            keras.utils.set_random_seed(seed)
            model = nets.build(name, images.image_shape, 1, **options)
            encoder = nets.encoder_of(model, standardize)
        return with_clean_statistics(encoder, images)
    if not Path(text).exists():
        raise UserError(
            f"encoder {text} does not exist{nearest(text, (PIXELS,))}; expected the folder of a "
            "run, a model (.keras or .h5), RUN/export/1, random:NET, random:RUN or pixels"
        )
    return nets.ExportedEncoder(text) if is_export(text) else nets.load_encoder(text, of_files)


def with_fresh_weights(encoder: nets.Encoder, seed: int) -> nets.Encoder:
    """The network of `encoder` with new initial weights."""
    keras.utils.set_random_seed(seed)
    return nets.Encoder(nets.reinitialize(encoder.model), encoder.standardize)


def with_clean_statistics(encoder: nets.Encoder, images: dataloader.Split) -> nets.Encoder:
    """`encoder`, whose batch statistics are now those of `images`, as those of every encoder that
    is compared."""
    batches = dataloader.evaluation_batches(images, images_at_once(images.image_shape))
    nets.recompute_batch_statistics(
        encoder.model, (encoder.standardize(batch["image"]) for batch in batches)
    )
    return encoder


def scene_images(scenes: dataloader.Scenes) -> dataloader.Split:
    """The training scenes without their boxes."""
    store = dataloader.MemoryImages(scenes.train.images)
    return dataloader.Split.whole(store, np.full(len(store), -1))


def check_channels(encoder: Representation, image_shape: Sequence[int]) -> None:
    """Raise UserError if the encoder cannot take images of this shape (height, width, channels),
    resized if need be."""
    taken = encoder.image_shape
    if isinstance(encoder, nets.ExportedEncoder) and tuple(taken) != tuple(image_shape):
        raise UserError(
            f"{encoder.name} is an export for images of {'x'.join(map(str, taken))}, the data's "
            f"are {'x'.join(map(str, image_shape))}: give another --image_size, or its run folder"
        )
    if image_shape[-1] not in (1, taken[-1]):
        raise UserError(
            f"encoder {encoder.name} takes images of {taken[-1]} channels, the data's have "
            f"{image_shape[-1]}: give an encoder for such images"
        )


def check_backbone(encoder: Representation, scenes: dataloader.Scenes) -> None:
    """Raise UserError if a network cannot take images of the scenes' size."""
    if isinstance(encoder, nets.Encoder):
        nets.copy_encoder(encoder, scenes.image_shape[:2])
