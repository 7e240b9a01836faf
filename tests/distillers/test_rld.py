"""RLD against a loop over images and classes."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients, logits

RLD = distillers.get("RLD")
LABELS = np.array([3, 0, -1, 4, 1, -1, 2], "int32")


def by_loop(teacher, student, alpha, beta, temperature, alpha_temperature):
    losses = []
    for theirs, ours, label in zip(teacher, student, LABELS, strict=True):
        if label < 0:
            continue
        t = softmax(theirs / alpha_temperature).max()
        s = softmax(ours / alpha_temperature)[label]
        scd = t * np.log(t / s) + (1 - t) * np.log((1 - t) / (1 - s))
        mcd = 0.0
        below = [c for c in range(5) if theirs[c] < theirs[label]]
        if below:
            p, q = softmax(theirs[below] / temperature), softmax(ours[below] / temperature)
            mcd = np.sum(p * np.log(p / q))
        losses.append(alpha * alpha_temperature**2 * scd + beta * temperature**2 * mcd)
    return np.mean(losses)


@pytest.mark.parametrize("values", [(1.0, 8.0, 4.0, 1.0), (0.5, 0.0, 2.0, 3.0), (0.0, 1.0, 1, 1)])
def test_loss_equals_a_loop_over_labelled_images(values):
    teacher, student = logits(0)
    names = ("alpha", "beta", "temperature", "alpha_temperature")
    method = RLD(**dict(zip(names, values, strict=True)))
    found = method.compute_loss(tf.constant(teacher), tf.constant(student), labels=LABELS)
    np.testing.assert_allclose(found, by_loop(teacher, student, *values), rtol=1e-9)


def test_no_class_below_the_true_one():
    """The teacher gives the true class least: no ranking is to be learned there."""
    teacher, student = logits(1)
    teacher[np.arange(7), np.maximum(LABELS, 0)] = -20
    method = RLD(alpha=0.0)
    loss, _, ours = gradients(method, teacher, student, labels=LABELS)
    assert loss == 0 and not np.any(ours)
    assert_gradient(RLD(), teacher, student, labels=LABELS)


def test_standardized_logits_have_no_mean_and_no_spread():
    teacher, student = (tf.constant(x) for x in logits(2))
    method = RLD(standardize=True)
    losses = [
        method.compute_loss(theirs, ours, labels=LABELS)
        for theirs, ours in ((teacher, student), (3 * teacher + 1, student / 7 - 2))
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)
    z = [(x - x.mean(1, keepdims=True)) / x.std(1, ddof=1, keepdims=True) for x in logits(2)]
    np.testing.assert_allclose(losses[0], by_loop(*z, 1, 8, 4, 1), rtol=1e-9)


def test_gradient():
    teacher, student = logits(3)
    assert_gradient(RLD(), teacher, student, labels=LABELS)
    assert_gradient(RLD(standardize=True), teacher, student, labels=LABELS)
    _, _, ours = gradients(RLD(), teacher, student, labels=LABELS)
    assert np.all(np.any(ours.numpy() != 0, axis=1) == (LABELS >= 0))
    loss, _, ours = gradients(RLD(), 1e4 * teacher, -1e4 * student, labels=LABELS)
    assert np.isfinite(loss) and np.all(np.isfinite(ours))
    loss, _, ours = gradients(RLD(), teacher, student, labels=np.full(7, -1))
    assert loss == 0 and not np.any(ours)
    assert_finite_in_bfloat16(RLD(), teacher, student, labels=LABELS)


def test_hyper_parameters():
    assert round(240 * RLD().build(tf.zeros([2, 5]), tf.zeros([2, 5])).stage().warmup) == 20
    with pytest.raises(UserError, match="RLD needs labels"):
        RLD().compute_loss(tf.zeros([2, 5]), tf.zeros([2, 5]))
    for wrong in ({"temperature": 0.0}, {"alpha_temperature": 0.0}, {"alpha": -1.0}, {"beta": -1.0},
                  {"standardize": "perhaps"}, {"warmup": 2.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            RLD(**wrong)


def test_training():
    run_method_test(RLD())
