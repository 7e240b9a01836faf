"""FitNet against a plain loop; its stages, and what they train."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from distillers import Trains
from distillers.fitnet import FitNet
from registry import UserError
from tests.distillers.harness import run_method_test

SHAPES = [(3, 4, 4, 5), (3, 2, 2, 7), (3, 9)]
STUDENT_SHAPES = [(3, 4, 4, 3), (3, 4, 2, 4), (3, 4)]


def features_of(seed, shapes, dtype="float32"):
    random = np.random.default_rng(seed)
    maps = [tf.constant(random.normal(size=shape), dtype) for shape in shapes]
    return {"maps": maps, "logits": tf.constant(random.normal(size=(3, 6)), "float32")}


def built(teacher, student, **hyper_parameters):
    keras.utils.set_random_seed(0)
    loss = FitNet(**hyper_parameters).build(teacher, student)
    (regressor,) = loss.layers
    regressor.bias.assign(np.random.default_rng(1).normal(size=regressor.bias.shape))
    return loss


def predicted(loss, ours):
    """The regressor, position by position."""
    (regressor,) = loss.layers
    kernel = np.array(regressor.kernel, np.float64).reshape(ours.shape[-1], -1)
    found = np.empty((*ours.shape[:-1], kernel.shape[1]))
    for place in np.ndindex(*ours.shape[:-1]):
        found[place] = np.array(ours)[place] @ kernel + np.array(regressor.bias)
    return found


@pytest.mark.parametrize(("hint_tap", "number"), [(-1, 1), (1, 0), (2, 1), (3, 2)])
def test_hint_loss_equals_a_loop(hint_tap, number):
    teacher, student = features_of(2, SHAPES), features_of(3, STUDENT_SHAPES)
    loss = built(teacher, student, hint_tap=hint_tap)
    expected = predicted(loss, student["maps"][number])
    if number == 1:
        expected = expected.reshape(3, 2, 2, 2, 7).mean(axis=2)
    expected = np.mean((np.array(teacher["maps"][number]) - expected) ** 2)
    found = loss.compute_loss(teacher, student, stage="hint")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert f"tap {number + 1}" in loss.notes[0]


def test_second_stage_is_soft_logits():
    teacher, student = features_of(4, SHAPES), features_of(5, STUDENT_SHAPES)
    loss = built(teacher, student, temperature=3.0, alpha=0.2)
    p = softmax(teacher["logits"] / 3, axis=1)
    divergence = np.sum(p * (np.log(p) - log_softmax(student["logits"] / 3, axis=1)), axis=1)
    found = loss.compute_loss(teacher, student, stage="train")
    np.testing.assert_allclose(found, 9 * divergence.mean(), rtol=1e-5)
    assert (loss.stage("train").weight, loss.stage("train").main_weight) == (0.2, 0.8)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_middle_tap(count):
    loss = built(features_of(6, SHAPES[:1] * count), features_of(7, STUDENT_SHAPES[:1] * count))
    assert loss.stages[0].taps == ({1: 0, 2: 0, 3: 1, 4: 1, 5: 2}[count],)


@pytest.mark.parametrize("hint_tap", [1, 2])
def test_training(hint_tap):
    hint, train = run_method_test(FitNet(hint_tap=hint_tap)).distillation_losses[0].stages
    assert (hint.taps, hint.main_weight, hint.trains) == ((hint_tap - 1,), 0, Trains.TO_TAPS)
    assert (train.trains, train.new_optimizer) == (Trains.ALL, True)
    np.testing.assert_allclose([hint.share, train.share], [0.11, 0.89])


def test_without_soft_logits_the_classes_may_differ():
    teacher, student = features_of(8, SHAPES), features_of(9, STUDENT_SHAPES)
    teacher["logits"] = tf.zeros([3, 9])
    assert built(teacher, student, alpha=0.0).stages[1].loss is None
    with pytest.raises(UserError, match="FitNet .*the teacher has 9 logits, the student 6"):
        built(teacher, student, alpha=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradient_is_finite(dtype):
    teacher, student = features_of(10, SHAPES, dtype), features_of(11, SHAPES, dtype)
    student["maps"][1] = tf.zeros_like(student["maps"][1])
    built_loss = built(teacher, student)
    with tf.GradientTape() as tape:
        tape.watch(student["maps"])
        loss = built_loss.compute_loss(teacher, student, stage="hint")
    assert loss.dtype == tf.float32
    gradients = tape.gradient(loss, student["maps"])
    assert gradients[0] is None and gradients[2] is None
    assert np.all(np.isfinite(tf.cast(gradients[1], tf.float32)))


@pytest.mark.parametrize(
    "wrong", [{"hint_share": 1.5}, {"hint_tap": 0}, {"temperature": 0.0}, {"alpha": -0.1}]
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(UserError, match=f"FitNet: {next(iter(wrong))} must be"):
        FitNet(**wrong)


def test_taps_that_do_not_fit_are_refused():
    teacher, student = features_of(12, SHAPES), features_of(13, STUDENT_SHAPES)
    with pytest.raises(UserError, match="hint_tap is 4, but there are 3 taps"):
        built(teacher, student, hint_tap=4)
    with pytest.raises(UserError, match="tap 2 is a map .* and a vector"):
        built(teacher, features_of(13, [SHAPES[0], SHAPES[2], SHAPES[2]]))
