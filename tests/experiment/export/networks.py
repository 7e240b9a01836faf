"""A small network with batch normalisation, and images for it."""

import keras
import numpy as np

import nets
from experiment.export.material import Material

MEAN, DEVIATION = (90.0, 120.0, 60.0), (40.0, 70.0, 55.0)
NAMES = ("cat", "dog", "owl", "yak")


def images(count, size=16, seed=0):
    """Blobs of colours, which a network can tell apart, over noise: uint8 [N, size, size, 3]."""
    random = np.random.default_rng(seed)
    base = random.uniform(0, 255, (count, 1, 1, 3)) + random.normal(0, 30, (count, size, size, 3))
    return np.clip(base, 0, 255).astype("uint8")


def student(size=16, last=None, first=None):
    """Convolution, depthwise convolution, normalisation, a sum; `first` goes before them, `last`
    before the logits."""
    keras.utils.set_random_seed(1)
    image = keras.Input((size, size, 3))
    maps = first(image) if first else image
    maps = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(maps)
    normal = keras.layers.BatchNormalization()
    maps = shortcut = keras.layers.ReLU()(normal(maps))
    maps = keras.layers.DepthwiseConv2D(3, padding="same")(maps)
    maps = keras.layers.Add()([shortcut, maps])
    vector = keras.layers.GlobalAveragePooling2D()(maps)
    vector = last(vector) if last else vector
    normal_weights = keras.initializers.RandomNormal(0, 2)
    logits = keras.layers.Dense(len(NAMES), kernel_initializer=normal_weights)
    model = keras.Model(image, logits(vector), name="small")
    normal.moving_mean.assign(np.linspace(-0.3, 0.5, 8))
    normal.moving_variance.assign(np.linspace(0.5, 2, 8))
    return model


def material(raw_size=16, calibration=120, **changes):
    size = (16, 16) if raw_size != 16 else None
    return Material(
        student(**changes), nets.Standardize(MEAN, DEVIATION, size), (raw_size, raw_size, 3), NAMES,
        images(calibration, raw_size, seed=1),
    )
