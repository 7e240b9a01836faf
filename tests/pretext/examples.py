"""Images, random numbers and an encoder's maps for the tests of tasks."""

import numpy as np
import tensorflow as tf

import plugins
from pretext import TASKS, Images

WIDTH = 16


class Example:
    """A task on images of one shape, whose neck and head are made by `build`."""

    def __init__(self, name, shape, minimum_size=1, **hyper_parameters):
        self.task = plugins.create(TASKS, name, **hyper_parameters)
        self.images = Images(tuple(shape), minimum_size)
        self.views = self.task.views(self.images)
        self.view_count, self.view_shape = self.views.count, self.views.shape
        self.draws = self.views.draws

    def __getattr__(self, name):
        return getattr(self.task, name)

    def build(self, feature_shape, width):
        self.layers = self.neck, self.head = self.task.build(self.images, feature_shape, width)

    def embed(self, features, training=False):
        return self.task.embed(self.neck, features, training)

    def predict(self, h, training=False):
        return self.task.predict(self.head, h, training)


def images(count, shape, seed=0):
    return np.random.default_rng(seed).random((count, *shape), dtype=np.float32)


def uniform(count, task, seed=1):
    return np.random.default_rng(seed).random((count, task.draws), dtype=np.float32)


def encoded(views):
    """Maps ``[B, h, w, 8]`` of each view: means over 4x4 pixels, times fixed numbers, and a
    ReLU."""
    channels = views[0].shape[-1]
    weights = np.random.default_rng(2).normal(size=(channels, 8)).astype(np.float32)
    return [
        tf.nn.relu(tf.tensordot(tf.nn.avg_pool2d(view, 4, 4, "SAME") - 0.5, weights, 1))
        for view in views
    ]


def built(name, shape=(32, 32, 3), minimum_size=1, **hyper_parameters):
    """A task with neck and head for the maps of `encoded`."""
    tf.keras.utils.set_random_seed(0)
    task = Example(name, shape, minimum_size, **hyper_parameters)
    maps = encoded([tf.zeros([1, *task.view_shape])])[0]
    task.build(maps.shape[1:], WIDTH)
    return task
