"""VID against a plain loop."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import norm

from distillers.vid import VID, surprise
from registry import UserError
from tests.distillers.harness import run_method_test

SHAPES = [(3, 4, 4, 5), (3, 2, 2, 7), (3, 9)]
STUDENT_SHAPES = [(3, 4, 4, 3), (3, 2, 2, 7), (3, 4)]


def maps_of(seed, shapes):
    random = np.random.default_rng(seed)
    return [tf.constant(random.normal(size=shape).astype("float32")) for shape in shapes]


def built(teacher, student):
    keras.utils.set_random_seed(0)
    loss = VID().build(teacher, student)
    for layer in loss.layers:
        layer.scale.assign(np.random.default_rng(1).normal(size=layer.scale.shape))
    return loss


def by_loop(loss, teacher, student):
    total = 0.0
    for layer, theirs, ours in zip(loss.layers, teacher, student, strict=True):
        first, second, third = (np.array(one.kernel, np.float64) for one in layer.regressor)
        variance = np.log1p(np.exp(np.array(layer.scale, np.float64))) + 1e-5
        values = []
        channels = theirs.shape[-1]
        for t, s in zip(
            np.reshape(theirs, (-1, channels)), np.reshape(ours, (-1, ours.shape[-1])), strict=True
        ):
            mean = np.maximum(np.maximum(s @ first, 0) @ second, 0) @ third
            for c in range(channels):
                values.append((t[c] - mean[c]) ** 2 / variance[c] / 2 + np.log(variance[c]) / 2)
        total += np.mean(values)
    return total


def test_loss_equals_a_loop():
    teacher, student = maps_of(2, SHAPES), maps_of(3, STUDENT_SHAPES)
    loss = built(teacher, student)
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, by_loop(loss, teacher, student), rtol=1e-5)


def test_surprise_is_a_gaussian_density():
    x, mean, variance = np.random.default_rng(4).normal(size=(3, 20)) ** 2
    density = norm(mean, np.sqrt(variance))
    np.testing.assert_allclose(
        surprise(tf.constant(x), tf.constant(mean), tf.constant(variance)),
        -density.logpdf(x) - np.log(2 * np.pi) / 2,
        rtol=1e-9,
    )


def test_larger_maps_are_averaged():
    teacher, student = maps_of(5, [(3, 4, 2, 5)]), maps_of(6, [(3, 2, 4, 3)])
    loss = built(teacher, student)
    smaller = [np.reshape(teacher[0], (3, 2, 2, 2, 5)).mean(axis=2)]
    ours = [np.reshape(student[0], (3, 2, 2, 2, 3)).mean(axis=3)]
    found = loss.compute_loss(teacher, student)
    np.testing.assert_allclose(found, by_loop(loss, smaller, ours), rtol=1e-5)
    assert "compared at 2x2" in loss.notes[0]


def test_initial_variance():
    loss = VID(initial_variance=3.0).build(*[maps_of(7, SHAPES)] * 2)
    for layer, tap in zip(loss.layers, maps_of(7, SHAPES), strict=True):
        np.testing.assert_allclose(layer(tap)[1], np.full(tap.shape[-1], 3.0), rtol=1e-6)


def test_a_large_initial_variance():
    loss = VID(initial_variance=1000.0).build(*[maps_of(7, SHAPES)] * 2)
    np.testing.assert_allclose(loss.layers[0](maps_of(7, SHAPES)[0])[1], 1000.0, rtol=1e-6)


@pytest.mark.parametrize("student", ["equal", "zero", "constant"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_is_finite(student, dtype):
    teacher = [tf.cast(tap, dtype) for tap in maps_of(8, SHAPES)]
    maps = {
        "equal": teacher,
        "zero": [tf.zeros_like(tap) for tap in teacher],
        "constant": [tf.ones_like(tap) for tap in teacher],
    }[student]
    built_loss = built(teacher, maps)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        loss = built_loss.compute_loss([tap + 0 for tap in teacher], [tap + 0 for tap in maps])
    assert loss.dtype == tf.float32 and np.isfinite(loss)
    for gradient in tape.gradient(loss, maps):
        assert np.all(np.isfinite(tf.cast(gradient, tf.float32)))


def test_training():
    distiller = run_method_test(VID())
    assert {layer.name for layer in distiller.method_layers} == {"gaussian1", "gaussian2"}


@pytest.mark.parametrize("wrong", [{"weight": 0.0}, {"initial_variance": 0.0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(UserError, match=f"VID: {next(iter(wrong))} must be above"):
        VID(**wrong)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="VID .*tap 1 is a map .* and a vector"):
        VID().build([tf.zeros([2, 4, 4, 5])], [tf.zeros([2, 5])])
    with pytest.raises(UserError, match="VID needs as many tokens .* the teacher has 9 .* 4"):
        VID().build([tf.zeros([2, 9, 5])], [tf.zeros([2, 4, 5])])
    with pytest.raises(UserError, match="VID has layers of its own"):
        VID().compute_loss(maps_of(9, SHAPES), maps_of(9, STUDENT_SHAPES))
