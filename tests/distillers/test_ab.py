"""AB against a plain loop; its stages, and what they train."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from distillers import Combination, Trains
from distillers.ab import AB, boundary_loss
from registry import UserError
from tests.distillers.harness import run_method_test

SHAPES = [(3, 4, 4, 5), (3, 2, 2, 7), (3, 9)]


def features_of(seed, shapes=SHAPES, dtype="float64"):
    random = np.random.default_rng(seed)
    maps = [tf.constant(2 * random.normal(size=shape), dtype) for shape in shapes]
    return {"maps": maps, "logits": tf.constant(random.normal(size=(3, 6)))}


def by_loop(teacher, student, margin):
    """One tap's, mean over images."""
    total = 0.0
    for t, s in zip(np.array(teacher).ravel(), np.array(student).ravel(), strict=True):
        if t > 0 and s <= margin:
            total += (s - margin) ** 2
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
    return total / len(teacher)


@pytest.mark.parametrize("margin", [1.0, 0.3])
def test_loss_equals_a_loop(margin):
    """Without connectors, so by itself; deeper taps weigh more."""
    teacher, student = features_of(0), features_of(1)
    weights = (0.25, 0.5, 1)
    expected = sum(
        weight * by_loop(theirs, ours, margin)
        for weight, theirs, ours in zip(weights, teacher["maps"], student["maps"], strict=True)
    )
    method = AB(margin=margin)
    for context in ({}, {"stage": "init"}):
        found = method.compute_loss(teacher, student, **context)
        np.testing.assert_allclose(found, 3 / 1000 * expected, rtol=1e-9)


def test_connector():
    """A 1x1 convolution where channels differ, and the teacher's size."""
    teacher, student = (
        features_of(seed, [shape], "float32")
        for seed, shape in ((2, (3, 2, 2, 7)), (3, (3, 4, 4, 5)))
    )
    keras.utils.set_random_seed(0)
    loss = AB().build(teacher, student)
    (connector,) = loss.layers
    kernel = np.array(connector.kernel).reshape(5, 7)
    ours = np.array(student["maps"][0]).reshape(3, 2, 2, 2, 2, 5).mean(axis=(2, 4)) @ kernel
    expected = 3 / 1000 * by_loop(teacher["maps"][0], ours, 1.0)
    np.testing.assert_allclose(loss.compute_loss(teacher, student), expected, rtol=1e-5)
    assert "1x1 adapter from 5 to 7 channels, resized from 4x4 to 2x2" in loss.notes[0]


def test_gradient_at_the_boundary():
    """A neuron that sits on the boundary is still moved to its side, also from a map of zeros."""
    teacher = tf.constant([[1.0, 0.0, -1.0]])
    student = tf.zeros([1, 3])
    with tf.GradientTape() as tape:
        tape.watch(student)
        loss = tf.reduce_sum(boundary_loss(teacher, student, 1.0))
    np.testing.assert_allclose(loss, 3)
    np.testing.assert_allclose(tape.gradient(loss, student), [[-2, 2, 2]])


def test_second_stage_is_soft_logits_where_they_have_a_weight():
    teacher, student = features_of(4), features_of(5)
    loss = AB(alpha=0.4).build(teacher, student)
    p = softmax(teacher["logits"] / 3, axis=1)
    divergence = np.sum(p * (np.log(p) - log_softmax(student["logits"] / 3, axis=1)), axis=1)
    found = loss.compute_loss(teacher, student, stage="train")
    np.testing.assert_allclose(found, 9 * divergence.mean(), rtol=1e-9)
    assert (loss.stage("train").weight, loss.stage("train").main_weight) == (0.4, 0.6)
    without = AB(alpha=0.0).build(teacher, student).stage("train")
    assert (without.loss, without.main_weight) == (None, 1.0)


def test_training():
    distiller = run_method_test(AB(alpha=0.5))
    (loss,) = distiller.distillation_losses
    assert [layer.name for layer in loss.layers] == ["adapter1", "adapter2"]
    init, train = loss.stages
    assert (init.trains, init.main_weight, train.new_optimizer) == (Trains.ALL, 1, False)
    assert (init.combination, train.combination) == (Combination.CLIP, None)
    np.testing.assert_allclose([init.share, train.share], [0.11, 0.89])


def test_bfloat16():
    teacher, student = features_of(6, dtype="bfloat16"), features_of(7, dtype="bfloat16")
    loss = AB().compute_loss(teacher, student)
    assert loss.dtype == tf.float32 and np.isfinite(loss)


@pytest.mark.parametrize(
    "wrong", [{"init_share": -1.0}, {"margin": 0.0}, {"temperature": 0.0}, {"alpha": 2.0}]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(UserError, match=f"AB: {next(iter(wrong))} must be"):
        AB(**wrong)


def test_what_does_not_fit_is_refused():
    teacher, student = features_of(8), features_of(9, SHAPES[:2])
    with pytest.raises(UserError, match="AB .*the teacher has 3, the student 2"):
        AB().build(teacher, student)
    student = features_of(9, [SHAPES[0], (3, 2, 2, 8), SHAPES[2]])
    with pytest.raises(UserError, match=r"AB has layers of its own.*AB\(...\).build"):
        AB().compute_loss(teacher, student)
    student = features_of(9)
    student["logits"] = tf.zeros([3, 5])
    with pytest.raises(UserError, match="AB .*the teacher has 6 logits, the student 5"):
        AB(alpha=0.5).build(teacher, student)
