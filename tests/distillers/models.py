"""Small networks, data and methods for the tests of the distiller."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import distillers
import nets
from distillers import Combination, Loss, Method
from distillers.reading import Embedding
from nets.layers import batch_normalization

CLASSES = 6
TAPS = ("shallow", "deep")


def network(seed, name, *, width=1, normalised=True, counted=False, penalised=False):
    """A functional network on 8x8x3 images with taps of 6 and 10 channels; where it is penalised,
    with losses of its own, of its activities and of a kernel."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3))
    maps = CountedCalls(name="calls")(image) if counted else image
    if penalised:  # before and after batch normalisation, at which replicas wait for each other
        maps = keras.layers.Conv2D(3, 3, activity_regularizer=keras.regularizers.L2(0.01))(maps)
    for _ in range(width):
        maps = keras.layers.Conv2D(6, 3, padding="same", use_bias=not normalised)(maps)
        if normalised:
            maps = batch_normalization(None)(maps)
        maps = keras.layers.Activation("softplus")(maps)
    maps = keras.layers.AveragePooling2D(2, name="shallow")(maps)
    maps = keras.layers.Conv2D(10, 3, padding="same", activation="softplus")(maps)
    maps = keras.layers.MaxPooling2D(name="deep")(maps)
    maps = keras.layers.GlobalAveragePooling2D(name="embedding")(maps)
    regularizer = None
    if penalised:
        maps = keras.layers.ActivityRegularization(l2=0.3)(maps)
        regularizer = keras.regularizers.L2(0.1)
    scores = keras.layers.Dense(CLASSES, kernel_regularizer=regularizer, name="scores")
    return keras.Model(image, scores(maps), name=name)


def larger_network(seed, name):
    """As `network`, but its taps are twice as large and of 8 and 12 channels."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(8, 3, padding="same", activation="softplus", name="shallow")(image)
    maps = keras.layers.AveragePooling2D(2)(maps)
    maps = keras.layers.Conv2D(12, 3, padding="same", activation="softplus", name="deep")(maps)
    maps = keras.layers.GlobalAveragePooling2D(name="embedding")(maps)
    return keras.Model(image, keras.layers.Dense(CLASSES, name="scores")(maps), name=name)


def outputs(model):
    return nets.outputs_of(model, taps=TAPS)


@functools.cache
def _features_of_both() -> tuple[dict[str, Any], dict[str, Any]]:
    """What teacher and student give, as symbolic tensors."""
    models = network(2, "teacher", width=2), network(1, "student")
    teacher, student = (nets.feature_extractor(model, outputs(model)).output for model in models)
    return teacher, student


@functools.cache
def built_loss(name: str, samples: int = 4) -> Loss:
    """The loss of the method `name`, built for two of these networks: what it declares."""
    method = distillers.get(name)()
    if not method.needs_teacher:
        return method.build()
    return method.build(*map(method.select, _features_of_both()), samples=samples)


def batch(seed, size=8, unlabelled=()):
    random = np.random.default_rng(seed)
    label = random.integers(0, CLASSES, size).astype("int32")
    label[list(unlabelled)] = -1
    return {
        "image": random.normal(size=(size, 8, 8, 3)).astype("float32"),
        "label": label,
        "index": np.arange(size),
    }


class CountedCalls(keras.layers.Layer):
    """Hands its input on, and counts how often."""

    def build(self, shape):
        self.calls = self.add_weight(
            shape=(), dtype="int32", initializer="zeros", trainable=False, name="calls"
        )

    def call(self, x):
        self.calls.assign_add(1)
        return x


class Similarities(Method):
    """A sample's loss depends on all the others: similarities within the batch."""

    reads = Embedding()
    couples_samples = True
    combination = Combination.CLIP

    def loss(self, teacher, student, *, labels):
        student, teacher = (tf.matmul(x, x, transpose_b=True) for x in (student, teacher))
        known = tf.cast(labels >= 0, tf.float32)
        return 100 * tf.reduce_mean(tf.square(student - teacher) * known[:, None] * known)


class Adapted(Method):
    """The student's embedding through a layer of the method's own, mean over the batch."""

    reads = Embedding()

    def build(self, teacher, student, *, samples=None):
        adapter = keras.layers.Dense(teacher.shape[-1], name="adapter")
        adapter.build(student.shape)

        def loss(teacher, student, context):
            return tf.reduce_mean(tf.square(adapter(student) - teacher))

        return self.make_loss(teacher, student, loss, layers=[adapter])
