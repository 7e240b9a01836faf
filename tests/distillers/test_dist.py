"""DIST against correlations by NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients, logits

DIST = distillers.get("DIST")


@pytest.mark.parametrize(("temperature", "beta", "gamma"), [(1.0, 1.0, 1.0), (4.0, 2.0, 0.5)])
def test_loss_equals_a_loop(temperature, beta, gamma):
    teacher, student = logits(0)
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    inter = np.mean([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(7)])
    intra = np.mean([1 - np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(5)])
    found = DIST(temperature=temperature, beta=beta, gamma=gamma).compute_loss(
        tf.constant(teacher), tf.constant(student)
    )
    np.testing.assert_allclose(found, temperature**2 * (beta * inter + gamma * intra), rtol=1e-9)


def test_weights_are_those_of_the_authors_configurations():
    """configs/strategies/distill/resnet_dist.yaml: ori_loss_weight 1, kd_loss_weight 2."""
    assert (DIST().main_weight, DIST().distillation_weight) == (1, 2)


def test_gradient():
    assert_gradient(DIST(), *logits(1))
    assert DIST.couples_samples


def test_rows_and_columns_without_spread():
    """Equal logits in an image, equal images, and a batch of one: uncorrelated, no gradient."""
    teacher, student = logits(2)
    loss, _, ours = gradients(DIST(), teacher, teacher)
    np.testing.assert_allclose(loss, 0, atol=1e-12)
    np.testing.assert_allclose(ours, 0, atol=1e-12)
    for flat in (np.zeros_like(student), np.repeat(student[:1], 7, axis=0)):
        loss, _, ours = gradients(DIST(), teacher, flat)
        assert np.isfinite(loss) and np.all(np.isfinite(ours))
    loss, _, ours = gradients(DIST(beta=0.0), teacher[:1], student[:1])
    assert loss == 1 and not np.any(ours)
    assert_finite_in_bfloat16(DIST(), teacher, student)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="6 logits, the student 5"):
        DIST().build(tf.zeros([2, 6]), tf.zeros([2, 5]))
    for wrong in ({"temperature": -1.0}, {"beta": -1.0}, {"gamma": np.nan}, {"weight": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            DIST(**wrong)


def test_training():
    run_method_test(DIST())
