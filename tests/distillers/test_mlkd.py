"""MLKD against NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients, logits

MLKD = distillers.get("MLKD")


def by_numpy(teacher, student, temperatures):
    """The masks of the authors' code by `numpy.percentile`, as they have it."""
    sure = softmax(teacher, axis=1).max(axis=1)
    frequent = softmax(teacher, axis=1).sum(axis=0)
    images = np.mean(sure <= np.percentile(sure, 50))
    classes = np.mean(frequent <= np.percentile(frequent, 50))
    total = 0.0
    for t in temperatures:
        p, q = softmax(teacher / t, axis=1), softmax(student / t, axis=1)
        total += images * t**2 * np.mean(np.sum(p * np.log(p / q), axis=1))
        total += images * np.sum((p @ p.T - q @ q.T) ** 2) / len(p)
        total += classes * np.sum((p.T @ p - q.T @ q) ** 2) / p.shape[1]
    return total


@pytest.mark.parametrize("images", [1, 2, 7, 8])
@pytest.mark.parametrize("temperatures", [(4.0, 3.0, 5.0, 2.0, 6.0), (1.0,)])
def test_loss_equals_numpy(images, temperatures):
    teacher, student = logits(0, images)
    method = MLKD(temperatures=temperatures)
    found = method.compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, by_numpy(teacher, student, temperatures), rtol=1e-9)


def test_images_of_one_confidence_all_count():
    teacher, student = logits(1)
    teacher[1:6] = teacher[0]
    found = MLKD().compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, by_numpy(teacher, student, MLKD().temperatures), rtol=1e-9)


def test_gradient():
    teacher, student = logits(2)
    assert_gradient(MLKD(), teacher, student)
    loss, _, ours = gradients(MLKD(), teacher, teacher)
    np.testing.assert_allclose([loss, *np.ravel(ours)], 0, atol=1e-12)
    assert_finite_in_bfloat16(MLKD(), teacher, student)
    assert MLKD.couples_samples


def test_hyper_parameters():
    assert distillers.create("MLKD(temperatures=1;2.5)").temperatures == (1.0, 2.5)
    assert (MLKD().distillation_weight, MLKD().main_weight) == (0.9, 1.0)
    for wrong in ({"temperatures": ()}, {"temperatures": (1.0, 0.0)}, {"main_weight": -1.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            MLKD(**wrong)
    with pytest.raises(UserError, match="6 logits, the student 5"):
        MLKD().build(tf.zeros([2, 6]), tf.zeros([2, 5]))


def test_training():
    run_method_test(MLKD())
