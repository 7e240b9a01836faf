"""The trained network as a SavedModel for serving: raw images in, answers out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiment.run.folder import replacing
from experiment.run.variables import read

# What a SavedModel is made of, for `folder.RunFolder.directory`.
FILES = ("saved_model.pb", "fingerprint.pb", "variables/variables.*", "assets/*")


def classification(logits: tf.Tensor) -> dict[str, tf.Tensor]:
    """From logits [N,classes]: ``probabilities`` float32 [N,classes], ``classes`` int32 [N]."""
    probabilities = tf.nn.softmax(tf.cast(logits, tf.float32))
    return {
        "probabilities": probabilities,
        "classes": tf.argmax(probabilities, axis=-1, output_type=tf.int32),
    }


def _with_float32(config: Any) -> Any:
    """A layer's config with every dtype policy in it float32."""
    if isinstance(config, dict):
        if config.get("class_name", "").endswith("DTypePolicy"):
            return "float32"
        return {key: "float32" if key == "dtype" and isinstance(value, str) else
                _with_float32(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_with_float32(entry) for entry in config)
    return config


def float32_clone(model: keras.Model) -> keras.Model:
    """A functional model of the same layers and weights that computes in float32 on one device."""
    clone = keras.models.clone_model(
        model,
        clone_function=lambda layer: type(layer).from_config(_with_float32(layer.get_config())),
        recursive=True,
    )
    for own, given in zip(clone.variables, model.variables, strict=True):
        own.assign(read(given).astype(own.dtype))
    return clone


class _Serving(tf.Module):
    """Holds the weights and nothing else: what a SavedModel's root holds is saved, and a Keras
    model that was trained holds its optimizer, its metrics and whatever was made an attribute."""

    def __init__(self, weights: Sequence[Any]):
        super().__init__()
        self.weights = [variable.value for variable in weights]


def export_saved_model(
    model: keras.Model,
    directory: str | os.PathLike,
    *,
    image_shape: Sequence[int],
    mean: Sequence[float],
    deviation: Sequence[float],
    size: Sequence[int] | None = None,
    outputs: Callable[[Any], dict[str, tf.Tensor]] = classification,
) -> None:
    """Write a float32 SavedModel of `model`, entirely or not at all.

    Its ``serving_default`` takes ``image`` uint8 [N,H,W,C], any N >= 1, normalises it as
    ``(image - mean) / deviation``, runs the network in inference mode (dropout off, batch
    normalisation with its moving statistics) and returns what `outputs` makes of it.
    Call it outside of a distribution strategy's scope; the model may be of one.

    Args:
        model: functional, from float images [N,H,W,C]; any dtype policy, its weights are used in
            float32.
        directory: for TensorFlow Serving a number within the model's folder, such as ``export/1``;
            replaced where it exists.
        image_shape: (H, W, C).
        mean: of each channel, in 0..255 units.
        deviation: likewise, positive.
        size: (H, W) that the model takes, where it is another: images are resized to it.
        outputs: from what the model returns to named tensors; `classification` takes logits.

    Raises:
        ValueError: the model takes images of another shape, or `mean` and `deviation` do not have
            one number a channel.
    """
    height, width, channels = image_shape
    if len(mean) != channels or len(deviation) != channels:
        raise ValueError(
            f"{len(mean)} means and {len(deviation)} deviations; expected {channels}, one a channel"
        )
    expected = model.input_shape
    taken = (*(size or (height, width)), channels)
    if len(expected) != 4 or any(
        have not in (None, given) for have, given in zip(expected[1:], taken, strict=True)
    ):
        raise ValueError(f"the model takes images of shape {tuple(expected[1:])}, not {taken}")
    clone = float32_clone(model)
    channel_mean = np.asarray(mean, np.float32)
    channel_deviation = np.asarray(deviation, np.float32)
    signature = tf.TensorSpec([None, height, width, channels], tf.uint8, name="image")

    @tf.function(input_signature=[signature])
    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        image = tf.cast(image, tf.float32)
        if taken[:2] != (height, width):
            image = tf.image.resize(image, taken[:2], antialias=True)
        normalised = (image - channel_mean) / channel_deviation
        return outputs(clone(normalised, training=False))

    with replacing(directory) as partial:
        tf.saved_model.save(
            _Serving(clone.variables), str(partial), signatures={"serving_default": serve},
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
