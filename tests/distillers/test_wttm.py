"""WTTM against a loop."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, logits

TTM, WTTM = distillers.get("TTM"), distillers.get("WTTM")


@pytest.mark.parametrize("power", [0.2, 2.0])
def test_loss_equals_a_loop(power):
    teacher, student = logits(0)
    expected = 0.0
    for theirs, ours in zip(teacher, student, strict=True):
        p = softmax(theirs) ** power
        total = p.sum()
        expected += total * np.sum(p / total * np.log(p / total / softmax(ours))) / 7
    found = WTTM(power=power).compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_at_power_1_all_images_count_alike():
    teacher, student = (tf.constant(x) for x in logits(1))
    losses = [method(power=1.0).compute_loss(teacher, student) for method in (TTM, WTTM)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-12)


def test_gradient():
    teacher, student = logits(2)
    assert_gradient(WTTM(), teacher, student)
    assert_finite_in_bfloat16(WTTM(), teacher, student)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="6 logits, the student 5"):
        WTTM().build(tf.zeros([2, 6]), tf.zeros([2, 5]))
    with pytest.raises(UserError, match="power"):
        WTTM(power=-0.1)


def test_training():
    run_method_test(WTTM())
