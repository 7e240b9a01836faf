"""Soft logits against SciPy (test_zoo_golden.py has a value of other implementations)."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from distillers import SoftLogits
from registry import UserError
from tests.distillers.harness import run_method_test


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_against_scipy(temperature):
    random = np.random.default_rng(0)
    teacher, student = random.normal(size=(2, 7, 10)) * 8
    p = softmax(teacher / temperature, axis=1)
    divergence = p * (np.log(p) - log_softmax(student / temperature, axis=1))
    found = SoftLogits(temperature=temperature).compute_loss(
        tf.constant(teacher), tf.constant(student), labels=None, epoch=0
    )
    np.testing.assert_allclose(found, temperature**2 * divergence.sum(axis=1).mean(), rtol=1e-10)


def test_weights():
    method = SoftLogits(alpha=0.3)
    assert (method.main_weight, method.distillation_weight) == (0.7, 0.3)


def test_logits_beyond_the_exponential_range():
    found = SoftLogits(temperature=1.0).compute_loss(
        tf.constant([[1e4, -1e4]]), tf.constant([[-1e4, 1e4]])
    )
    np.testing.assert_allclose(found, 2e4)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"alpha": 1.5}, {"alpha": -0.1}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        SoftLogits(**wrong)


def test_training():
    run_method_test(SoftLogits())
