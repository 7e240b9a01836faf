"""A small encoder, and the models that train it, for tests."""

import keras
import numpy as np
import tensorflow as tf

import nets
import plugins
from nets.layers import batch_normalization
from pretext import BALANCES, ENSEMBLES, REGULARIZERS
from pretext.model import MultiTask
from pretext.registration import create_tasks
from tests.datasets import untuned

SHAPE = (20, 20, 3)
TASKS = ("reconstruction", "rotation", "jigsaw", "instance")


def encoder(seed=1, *, shape=SHAPE, normalised=True):
    """Two convolutions of stride 2, with or without batch normalisation. Without ReLU, by whose
    kink rounding may turn into a difference."""
    keras.utils.set_random_seed(seed)
    image = maps = keras.Input(shape)
    for number, filters in enumerate((8, 16)):
        maps = keras.layers.Conv2D(
            filters, 3, strides=2, padding="same", name=f"conv{number}"
        )(maps)
        if normalised:
            maps = batch_normalization(f"bn{number}")(maps)
        maps = keras.layers.Activation("silu", name=f"silu{number}")(maps)
    channels = shape[-1]
    standardize = nets.Standardize((120.0,) * channels, (60.0,) * channels)
    return nets.encoder_of(keras.Model(image, maps, name="small"), standardize)


def images(count, seed=0, shape=SHAPE):
    """Smooth uint8 images, no two alike."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 4, 4, shape[-1]))
    return tf.image.resize(coarse, shape[:2]).numpy().astype(np.uint8)


def batches(count, size, seed=0, shape=SHAPE):
    """Batches of an epoch in one order; the last may be partial."""
    order = np.random.default_rng(seed).permutation(count)
    data = {"image": images(count, shape=shape)[order], "index": order.astype(np.int64)}
    return untuned(tf.data.Dataset.from_tensor_slices(data).batch(size))


def multi_task(
    names=TASKS,
    *,
    own_encoder=None,
    balance="scale",
    regularizer="triplet",
    memory_of=0,
    ensemble_weight=1.0,
    ramp_epochs=0.0,
    average_decay=None,
    **arguments,
):
    """A `MultiTask`; `memory_of` images have a temporal memory, and `average_decay` averages the
    weights. Plug-ins as they are written on the command line."""
    settings = {}
    if memory_of:
        settings.update(ensemble_weight=ensemble_weight, ramp_epochs=ramp_epochs)
    if average_decay is not None:
        settings.update(average_decay=average_decay)
    kind = "both" if len(settings) == 3 else "temporal" if memory_of else "weights"
    return MultiTask(
        own_encoder or encoder(),
        create_tasks(",".join(names)),
        balance=plugins.create(BALANCES, balance),
        regularizer=plugins.create(REGULARIZERS, regularizer),
        ensemble=plugins.create(ENSEMBLES, kind if settings else "none", **settings),
        train_images=memory_of,
        **arguments,
    )


def weights(model):
    """All of a model's weights as one vector, float64."""
    return np.concatenate([
        np.ravel(keras.ops.convert_to_numpy(variable)).astype(np.float64)
        for variable in model.variables
    ])
