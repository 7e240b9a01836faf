"""Soft logits against SciPy and a value of other implementations."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from distillers import SoftLogits
from registry import UserError

GOLDEN = 7.039684
STUDENT = [
    [
        1.07632, 4.53203, -5.35899, 5.05984, -0.141952,
        -2.39994, -2.40887, -3.24845, -0.670936, 2.50165,
    ],
    [
        1.75219, 1.91486, -5.08442, -4.71289, 4.66141,
        2.90666, 6.54964, 3.62945, -3.07317, 3.85582,
    ],
    [
        1.88518, 0.644475, -2.45962, 0.00834067, -0.440996,
        2.67761, 0.373491, 4.75424, -2.32346, 1.41331,
    ],
    [
        1.49653, -2.59302, -3.5438, 3.04074, 1.55232,
        -0.487516, 1.1831, -2.02603, 0.715045, -1.81538,
    ],
    [
        0.566365, 2.95827, -1.01889, 2.54932, -3.1026,
        -0.865472, -4.09423, -0.301758, 0.235962, -0.591788,
    ],
    [
        -0.803027, 4.02058, 4.27138, -3.64689, 3.52234,
        -5.16921, -2.20344, -0.520337, 0.333182, -3.14225,
    ],
    [
        -2.16741, 0.229961, -2.08027, -1.9236, 1.99879,
        2.79516, -0.180165, 0.0545937, -0.0587944, -1.36346,
    ],
    [
        -1.53418, -3.11323, 1.94517, -0.252479, -0.412318,
        0.601628, 1.59202, 4.2631, -0.820637, -1.20352,
    ],
]
TEACHER = [
    [
        0.601721, -2.53651, 3.81729, 2.77873, 2.08177,
        -0.358845, 2.21875, 3.15061, 1.49972, -0.839948,
    ],
    [
        -5.05522, 2.84089, -1.05975, -2.5297, 2.6718,
        1.01451, -4.25651, -0.297124, -0.807702, 2.97784,
    ],
    [
        -5.68537, -1.15668, -0.414747, 4.2567, -3.25017,
        -8.8213, -4.15208, 0.789209, 2.42878, 5.20063,
    ],
    [
        1.20281, -2.40693, 2.65317, -0.0331732, -0.602874,
        0.0526576, 3.82373, -2.70432, -3.07178, -0.199566,
    ],
    [
        -0.19971, -2.44338, -2.63837, 1.13298, 4.01351,
        2.13898, 2.05536, 3.73721, -5.97292, -4.53098,
    ],
    [
        -2.11619, -3.58533, -2.96819, 0.209622, -3.85317,
        -1.33049, -6.12946, -2.92192, 4.03664, -1.62869,
    ],
    [
        0.972417, 2.12446, -1.47271, 1.73725, 0.643606,
        2.09222, -1.90666, -4.32051, -3.06636, -1.66445,
    ],
    [
        1.60749, -0.612927, -1.19642, -0.539044, 3.29927,
        -1.7265, 4.534, -3.68278, -1.77671, 2.56501,
    ],
]


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_against_scipy(temperature):
    random = np.random.default_rng(0)
    teacher, student = random.normal(size=(2, 7, 10)) * 8
    p = softmax(teacher / temperature, axis=1)
    divergence = p * (np.log(p) - log_softmax(student / temperature, axis=1))
    found = SoftLogits(temperature=temperature).compute_loss(
        tf.constant(teacher), tf.constant(student), label=None, epoch=0
    )
    np.testing.assert_allclose(found, temperature**2 * divergence.sum(axis=1).mean(), rtol=1e-10)


def test_value_of_other_implementations():
    """T = 4; computed by RepDistiller's, mdistiller's and torchdistill's definitions alike."""
    teacher, student = np.array(TEACHER), np.array(STUDENT)
    found = SoftLogits(temperature=4.0).compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, GOLDEN, rtol=1e-5)


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
