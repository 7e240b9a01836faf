"""Hard_logits against a loop."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, gradients, logits

Hard_logits = distillers.get("Hard_logits")


def test_loss_and_gradient_are_those_of_labels():
    teacher, student = logits(0)
    loss, theirs, ours = gradients(Hard_logits(), teacher, student)
    chosen = [max(range(5), key=row.__getitem__) for row in teacher]
    expected = -np.mean([log_softmax(row)[c] for row, c in zip(student, chosen, strict=True)])
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(ours, (softmax(student, axis=1) - np.eye(5)[chosen]) / 7, rtol=1e-9)
    assert theirs is None
    assert_finite_in_bfloat16(Hard_logits(), teacher, student)


def test_weights_and_refusals():
    assert (Hard_logits().distillation_weight, Hard_logits().main_weight) == (0.5, 0.5)
    with pytest.raises(UserError, match="alpha must be from 0 to 1"):
        Hard_logits(alpha=2)
    with pytest.raises(UserError, match="6 logits, the student 5"):
        Hard_logits().build(tf.zeros([2, 6]), tf.zeros([2, 5]))


def test_training():
    run_method_test(Hard_logits())
