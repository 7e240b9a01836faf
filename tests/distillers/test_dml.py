"""DML against a loop, and where its gradients go."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, gradients, logits

DML = distillers.get("DML")


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_loss_equals_a_loop(temperature):
    teacher, student = logits(0)
    expected = 0.0
    for one, other in zip(teacher, student, strict=True):
        p, q = softmax(one / temperature), softmax(other / temperature)
        for a, b in zip(p, q, strict=True):
            expected += temperature**2 * (a * np.log(a / b) + b * np.log(b / a)) / 7
    found = DML(temperature=temperature).compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_each_network_learns_from_the_other_as_it_stands():
    """The gradient of cross-entropy against fixed probabilities: softmax minus target."""
    teacher, student = logits(1)
    _, theirs, ours = gradients(DML(), teacher, student)
    difference = softmax(student, axis=1) - softmax(teacher, axis=1)
    np.testing.assert_allclose(ours, difference / 7, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(theirs, -difference / 7, rtol=1e-9, atol=1e-12)


def test_the_teacher_is_trained():
    assert DML.trains_teacher and DML().distillation_weight == 1 and DML().main_weight == 1


def test_equal_networks_and_low_precision():
    teacher, student = logits(2)
    loss, theirs, ours = gradients(DML(), teacher, teacher)
    assert loss == 0
    np.testing.assert_allclose([theirs, ours], 0, atol=1e-15)
    assert_finite_in_bfloat16(DML(), teacher, student)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="6 logits, the student 5"):
        DML().build(tf.zeros([2, 6]), tf.zeros([2, 5]))
    for wrong in ({"temperature": 0.0}, {"weight": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            DML(**wrong)


def test_training():
    run_method_test(DML())
