"""A small encoder and a small data set, for the tests of the target tasks."""

import keras
import numpy as np

import nets
from dataloader import Data, MemoryImages, Split


def encoder(size=16, channels=3, seed=0, batch_norm=True):
    keras.utils.set_random_seed(seed)
    image = keras.Input((size, size, channels))
    maps = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image)
    if batch_norm:
        maps = keras.layers.BatchNormalization(momentum=0.9)(maps)
    maps = keras.layers.Conv2D(12, 3, strides=2, padding="same", activation="relu")(maps)
    model = keras.Model(image, maps, name="small")
    return nets.encoder_of(model, nets.Standardize((60.0,) * channels, (70.0,) * channels))


def split(count, classes, seed, labels=None, size=16):
    """Images with a bright square. Its position determines the class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes if labels is None else np.asarray(labels)
    images = random.integers(0, 60, [count, size, size, 3])
    for image, label in zip(images, labels, strict=True):
        down, right = divmod(int(label), 3)
        image[5 * down : 5 * down + 5, 5 * right : 5 * right + 5] += 190
    return Split.whole(MemoryImages(images.astype(np.uint8)), labels)


def data(classes=4, train=80, validation=24, test=60):
    return Data(
        name="squares",
        class_names=tuple("abcdefghi"[:classes]),
        image_shape=(16, 16, 3),
        channel_mean=(60.0,) * 3,
        channel_deviation=(70.0,) * 3,
        default_flip=False,
        train=split(train, classes, 1),
        validation=split(validation, classes, 2),
        test=split(test, classes, 3),
    )


def weights(encoder):
    return [np.array(variable) for variable in encoder.model.variables]
