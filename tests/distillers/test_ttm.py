"""TTM against a loop, and what it says about temperatures."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import distillers
from op_util.divergence import softened_divergence
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients, logits

TTM = distillers.get("TTM")


@pytest.mark.parametrize("power", [0.1, 1.0, 2.5])
def test_loss_equals_a_loop(power):
    teacher, student = logits(0)
    expected = 0.0
    for theirs, ours in zip(teacher, student, strict=True):
        p = softmax(theirs) ** power
        p, q = p / p.sum(), softmax(ours)
        expected += np.sum(p * np.log(p / q)) / 7
    found = TTM(power=power).compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_power_is_a_temperature_of_the_teacher_alone():
    teacher, student = (tf.constant(x) for x in logits(1))
    found = TTM(power=0.25).compute_loss(teacher, student)
    np.testing.assert_allclose(found, softened_divergence(teacher / 4, student, 1.0), rtol=1e-9)


def test_gradient():
    teacher, student = logits(2)
    assert_gradient(TTM(), teacher, student)
    assert_finite_in_bfloat16(TTM(), teacher, student)
    loss, _, ours = gradients(TTM(), 1e4 * teacher, -1e4 * student)
    assert np.isfinite(loss) and np.all(np.isfinite(ours))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="6 logits, the student 5"):
        TTM().build(tf.zeros([2, 6]), tf.zeros([2, 5]))
    for wrong in ({"power": 0.0}, {"weight": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            TTM(**wrong)


def test_training():
    run_method_test(TTM())
