"""Open the encoders to evaluate, by the names users give."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import dataloader
import nets
from registry import UserError, nearest
from targets.embeddings import Representation, images_at_once, raw_pixels

RANDOM, PIXELS = "random:", "pixels"
STATISTICS_IMAGES = 20_000


def is_export(text: str) -> bool:
    """Whether `text` is the folder of a SavedModel."""
    return (Path(text) / "saved_model.pb").exists()


def open_encoder(
    text: str,
    images: dataloader.Split,
    standardize: nets.Standardize,
    of_files: nets.Standardize | None,
    net_options: Sequence[str] = (),
    seed: int = 0,
) -> Representation:
    """Open the encoder named by `text`.

    Args:
        text: a run folder, a Keras model, RUN/export/1, ``random:NET``, ``random:RUN`` or
            ``pixels``.
        images: networks with fresh weights get their batch statistics from these images. They set
            the image size of ``pixels`` and of registered networks.
        standardize: the preprocessing of networks with fresh weights whose layers or names tell
            none.
        of_files: the preprocessing of model files, which do not state their own; None: what their
            layers or names tell, or else `standardize`.
        net_options: options of registered networks, as name=value.
        seed: random seed for fresh weights. ``random:NET`` has those that a run of this network
            with the same seed starts from.

    Raises:
        UserError: there is no such encoder.
    """
    if text == PIXELS:
        return raw_pixels(images.image_shape)
    load = functools.partial(
        nets.load_encoder, standardize=of_files or standardize, infer=of_files is None
    )
    if text.startswith(RANDOM):
        name = text.removeprefix(RANDOM)
        if Path(name).exists():
            encoder = with_fresh_weights(load(name), seed)
        elif os.sep in name:
            raise UserError(
                f"encoder {text}: {name} does not exist; expected a run folder or a network of "
                "--net"
            )
        else:
            options = nets.parse_options(net_options)
            keras.utils.set_random_seed(seed)
            model = nets.build(name, images.image_shape, 1, **options)
            encoder = nets.encoder_of(model, nets.infer_preprocessing(model) or standardize)
        return with_clean_statistics(encoder, images)
    if not Path(text).exists():
        raise UserError(
            f"encoder {text} does not exist{nearest(text, (PIXELS,))}; expected a run folder, "
            "a model (.keras or .h5), RUN/export/1, random:NET, random:RUN or pixels"
        )
    return nets.ExportedEncoder(text) if is_export(text) else load(text)


def with_fresh_weights(encoder: nets.Encoder, seed: int) -> nets.Encoder:
    """The network of `encoder` with new initial weights."""
    keras.utils.set_random_seed(seed)
    return nets.Encoder(nets.reinitialize(encoder.model), encoder.standardize)


def with_clean_statistics(encoder: nets.Encoder, images: dataloader.Split) -> nets.Encoder:
    """Recompute the batch statistics of `encoder` from at most `STATISTICS_IMAGES` of `images`, in
    place, and return it.

    Fresh weights have none; those of a trained encoder are part of it, and stay.
    """
    sample = images.mixed(STATISTICS_IMAGES)
    becomes_grey = (images.image_shape[-1], encoder.image_shape[-1]) == (3, 1)  # as for detection

    def prepared(image: tf.Tensor) -> tf.Tensor:
        return encoder.standardize(tf.image.rgb_to_grayscale(image) if becomes_grey else image)

    batches = dataloader.evaluation_batches(sample, images_at_once(images.image_shape))
    nets.recompute_batch_statistics(
        encoder.model, (prepared(batch["image"]) for batch in batches)
    )
    return encoder


def scene_images(scenes: dataloader.Scenes) -> dataloader.Split:
    """The training scenes without their boxes."""
    store = dataloader.MemoryImages(scenes.train.images)
    return dataloader.Split.whole(store, np.full(len(store), -1))


def check_channels(encoder: Representation, image_shape: Sequence[int]) -> None:
    """Raise UserError if the encoder cannot take images of this shape, even resized.

    Args:
        encoder: the encoder.
        image_shape: (height, width, channels).
    """
    taken = encoder.image_shape
    if isinstance(encoder, nets.ExportedEncoder) and tuple(taken) != tuple(image_shape):
        raise UserError(
            f"{encoder.name} is an export for images of {'x'.join(map(str, taken))}, but the "
            f"data's are {'x'.join(map(str, image_shape))}: change --image_size, or give its run "
            "folder"
        )
    if image_shape[-1] not in (1, taken[-1]):
        raise UserError(
            f"encoder {encoder.name} takes images of {taken[-1]} channels, but the data's have "
            f"{image_shape[-1]}: give --channels {taken[-1]}, or an encoder for such images"
        )


def check_backbone(encoder: Representation, scenes: dataloader.Scenes) -> None:
    """Raise UserError if a network cannot take images of the scenes' size and channels."""
    channels, taken = scenes.image_shape[-1], encoder.image_shape[-1]
    if isinstance(encoder, nets.Encoder):
        if channels not in (1, taken) and (channels, taken) != (3, 1):  # colours can be made grey
            raise UserError(
                f"encoder {encoder.name} takes images of {taken} channels, and the scenes of "
                f"{scenes.name} have {channels}: give an encoder for such images, or --targets "
                "without detection"
            )
        nets.copy_encoder(encoder, scenes.image_shape[:2])
