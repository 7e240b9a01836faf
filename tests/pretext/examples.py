"""Images, random numbers and an encoder's maps for the tests of tasks."""

import numpy as np
import tensorflow as tf

import pretext

WIDTH = 16


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
    task = pretext.create(name, shape, minimum_size, **hyper_parameters)
    maps = encoded([tf.zeros([1, *task.view_shape])])[0]
    task.build(maps.shape[1:], WIDTH)
    return task
