"""SP against a loop over pairs of samples."""

import numpy as np
import pytest
import tensorflow as tf

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import gradients

SP = distillers.get("SP")


def maps(seed, samples=5):
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, 4, 3, 6)), random.normal(size=(samples, 2, 2, 5))


class OnLastTap:
    """SP as a loss of one tensor each, after a tap that must not matter."""

    def compute_loss(self, teacher, student, **context):
        return SP().compute_loss([tf.ones([2, 2]), teacher], [student], **context)


def similarity(samples):
    flat = samples.reshape(len(samples), -1)
    gram = np.array([[a @ b for b in flat] for a in flat])
    norms = np.array([np.sqrt(np.sum(row**2)) or 1.0 for row in gram])
    return gram / norms[:, None]


def by_loop(teacher, student):
    p, q = similarity(teacher), similarity(student)
    n = len(teacher)
    return sum((p[i, j] - q[i, j]) ** 2 for i in range(n) for j in range(n)) / n**2


def test_loss_equals_a_loop_over_the_last_tap():
    teacher, student = maps(0)
    found = OnLastTap().compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, by_loop(teacher, student), rtol=1e-9)
    vectors = teacher.reshape(5, -1)
    found = SP().compute_loss([tf.constant(vectors)], [tf.constant(student)])
    np.testing.assert_allclose(found, by_loop(teacher, student), rtol=1e-9)


def test_gradient():
    teacher, student = maps(1)
    _, theirs, ours = gradients(OnLastTap(), teacher, student)
    assert theirs is None
    step = 1e-6 * np.random.default_rng(9).normal(size=student.shape)
    change = (by_loop(teacher, student + step) - by_loop(teacher, student - step)) / 2
    np.testing.assert_allclose(np.sum(ours * step), change, rtol=1e-5)
    assert SP.couples_samples


def test_samples_that_answer_nothing():
    teacher, student = maps(2)
    student[3] = 0
    loss, _, ours = gradients(OnLastTap(), teacher, student)
    np.testing.assert_allclose(loss, by_loop(teacher, student), rtol=1e-9)
    assert np.all(np.isfinite(ours)) and np.any(ours)
    loss, _, ours = gradients(OnLastTap(), teacher, np.zeros_like(student))
    assert np.isfinite(loss) and not np.any(ours)
    loss, _, ours = gradients(OnLastTap(), teacher, 3 * teacher)
    np.testing.assert_allclose(loss, 0, atol=1e-20)
    np.testing.assert_allclose(ours, 0, atol=1e-12)


def test_low_precision():
    teacher, student = (tf.cast(tf.constant(x), tf.bfloat16) for x in maps(3))
    loss = OnLastTap().compute_loss(teacher, student)
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, by_loop(*maps(3)), rtol=0.02)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="the student has no taps"):
        SP().build([tf.zeros([1, 2])], [])
    with pytest.raises(UserError, match="weight"):
        SP(weight=-3.0)


def test_training():
    run_method_test(SP())
