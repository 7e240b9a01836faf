"""LogitStd against a loop, and what it does not depend on."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients, logits

LogitStd = distillers.get("LogitStd")


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_loss_equals_a_loop(temperature):
    teacher, student = logits(0)
    expected = 0.0
    for pair in zip(teacher, student, strict=True):
        p, q = (softmax((x - x.mean()) / x.std(ddof=1) / temperature) for x in pair)
        expected += temperature**2 * np.sum(p * np.log(p / q)) / 7
    found = LogitStd(temperature=temperature).compute_loss(
        tf.constant(teacher), tf.constant(student)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_gradient():
    teacher, student = logits(1)
    assert_gradient(LogitStd(), teacher, student)
    assert_finite_in_bfloat16(LogitStd(), teacher, student)


def test_mean_and_spread_of_the_logits_do_not_matter():
    teacher, _ = logits(2)
    loss, _, ours = gradients(LogitStd(), teacher, 7 * teacher - 3)
    np.testing.assert_allclose(loss, 0, atol=1e-12)
    np.testing.assert_allclose(ours, 0, atol=1e-12)


def test_equal_logits_have_no_direction():
    teacher, student = logits(3)
    student[2] = 1.5
    loss, _, ours = gradients(LogitStd(), teacher, student)
    assert np.isfinite(loss) and np.all(np.isfinite(ours)) and not np.any(ours[2])


def test_weights_of_the_authors():
    method = LogitStd()
    assert (method.temperature, method.distillation_weight, method.main_weight) == (2, 9, 1)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="6 logits, the student 5"):
        LogitStd().build(tf.zeros([2, 6]), tf.zeros([2, 5]))
    for wrong in ({"temperature": 0.0}, {"weight": 0.0}, {"main_weight": -0.1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            LogitStd(**wrong)


def test_training():
    run_method_test(LogitStd())
