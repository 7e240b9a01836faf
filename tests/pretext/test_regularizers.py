"""Regularizers by name, and that they reach the encoder."""

import numpy as np
import pytest
import tensorflow as tf

from pretext import regularizers
from pretext.heads import SharedProjection
from registry import UserError
from tests.pretext.examples import WIDTH, built, encoded, images, uniform


def test_by_name():
    e = np.random.default_rng(0).normal(size=(5, 3, 4))
    e = tf.constant(e / np.linalg.norm(e, axis=-1, keepdims=True))
    values = {name: float(regularizers.create(name, 3)(e)) for name in ("triplet", "relational")}
    assert values["triplet"] > 0 and values["relational"] > 0
    none = regularizers.create("none", 1)
    assert float(none(e)) == 0 and not none.acts
    wide, narrow = (regularizers.create("Triplet", 3, margin=margin) for margin in (0.5, 0.1))
    assert float(wide(e)) > values["triplet"] > float(narrow(e))


@pytest.mark.parametrize("name", ["triplet", "relational"])
def test_one_task_is_refused(name):
    with pytest.raises(UserError, match=f"{name} .*at least 2, not 1"):
        regularizers.create(name, 1)


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="did you mean 'triplet'"):
        regularizers.create("triplets", 2)
    with pytest.raises(UserError, match="margin"):
        regularizers.create("triplet", 2, margin=-0.1)


@pytest.mark.parametrize("name", ["triplet", "relational"])
def test_the_encoders_maps_of_every_task_get_a_gradient(name):
    tasks = [built(task) for task in ("reconstruction", "rotation", "jigsaw", "instance")]
    projection, x = SharedProjection(WIDTH), tf.constant(images(8, (32, 32, 3)))
    maps = [encoded(task.views(x, tf.constant(uniform(8, task)))[0]) for task in tasks]
    with tf.GradientTape() as tape:
        tape.watch(maps)
        h = [task.vector(task.embed(each)) for task, each in zip(tasks, maps, strict=True)]
        loss = regularizers.create(name, len(tasks))(projection(tf.stack(h, axis=1)))
    for gradient in tf.nest.flatten(tape.gradient(loss, maps)):
        assert np.any(gradient) and np.all(np.isfinite(gradient))
