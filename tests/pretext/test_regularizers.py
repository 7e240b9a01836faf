"""Regularizers by name, and that they reach the encoder."""

import numpy as np
import pytest
import tensorflow as tf

import plugins
from op_util.redundancy import vicreg
from pretext import REGULARIZERS
from pretext.heads import SharedProjection
from registry import UserError
from tests.pretext.examples import WIDTH, built, encoded, images, uniform

NAMES = ("triplet", "relational", "variance_covariance")


def create(name, **hyper_parameters):
    return plugins.create(REGULARIZERS, name, **hyper_parameters)


def test_by_name():
    e = np.random.default_rng(0).normal(size=(5, 3, 4))
    e = tf.constant(e / np.linalg.norm(e, axis=-1, keepdims=True))
    values = {name: float(create(name)(e)) for name in NAMES}
    assert all(value > 0 for value in values.values())
    assert all(create(name).least_tasks == 2 for name in NAMES)
    none = create("none")
    assert float(none(e)) == 0 and not none.acts and none.least_tasks == 1
    wide, narrow = (create("Triplet", margin=margin) for margin in (0.5, 0.1))
    assert float(wide(e)) > values["triplet"] > float(narrow(e))


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="did you mean 'triplet'"):
        create("triplets")
    with pytest.raises(UserError, match="margin"):
        create("triplet", margin=-0.1)


@pytest.mark.parametrize("name", NAMES)
def test_the_encoders_maps_of_every_task_get_a_gradient(name):
    tasks = [built(task) for task in ("reconstruction", "rotation", "jigsaw", "instance")]
    projection, x = SharedProjection(WIDTH), tf.constant(images(8, (32, 32, 3)))
    maps = [encoded(task.views(x, tf.constant(uniform(8, task)))[0]) for task in tasks]
    with tf.GradientTape() as tape:
        tape.watch(maps)
        h = [task.vector(task.embed(each)) for task, each in zip(tasks, maps, strict=True)]
        loss = create(name)(projection(tf.stack(h, axis=1)))
    for gradient in tf.nest.flatten(tape.gradient(loss, maps)):
        assert np.any(gradient) and np.all(np.isfinite(gradient))


def test_variance_covariance_of_two_tasks_is_vicreg_of_scaled_embeddings():
    e = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    e /= np.linalg.norm(e, axis=-1, keepdims=True)
    own = create("variance_covariance", invariance=25, variance=25, covariance=1)
    pair = vicreg(2 * e[:, 0], 2 * e[:, 1])  # the root of the width 4
    np.testing.assert_allclose(own(tf.constant(e[:, :2])), pair, rtol=1e-6)
    pairs = [vicreg(2 * e[:, a], 2 * e[:, b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(own(tf.constant(e)), np.mean(pairs), rtol=1e-6)


def test_variance_covariance_tells_a_collapse_from_a_spread():
    random = np.random.default_rng(0)
    spread = random.normal(size=(400, 1, 4)).astype(np.float32)
    spread /= np.linalg.norm(spread, axis=-1, keepdims=True)
    one_place = np.repeat(spread[:1], 400, axis=0)
    own = create("variance_covariance")
    values = [float(own(tf.constant(np.repeat(x, 2, axis=1)))) for x in (spread, one_place)]
    assert values[0] < 0.05 and values[1] > 0.9
