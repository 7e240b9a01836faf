"""SRD against a loop over features."""

import numpy as np
import pytest
import tensorflow as tf

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients

SRD = distillers.get("SRD")
ALONE = SRD(projector="none")


def embeddings(seed, widths=(4, 4)):
    random = np.random.default_rng(seed)
    return [random.normal(size=(6, width)) * 3 + 1 for width in widths]


def by_loop(teacher, student):
    total = 0.0
    for t, s in zip(teacher.T, student.T, strict=True):
        t, s = ((x - x.mean()) / np.sqrt(x.var() + 1e-4) for x in (t, s))
        total += sum((a - b) ** 4 for a, b in zip(t, s, strict=True))
    return np.log(total)


def test_loss_equals_a_loop():
    teacher, student = embeddings(0)
    found = ALONE.compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, by_loop(teacher, student), rtol=1e-9)


def test_gradient():
    teacher, student = embeddings(1)
    assert_gradient(ALONE, teacher, student)
    assert_finite_in_bfloat16(ALONE, teacher, student)
    assert SRD.couples_samples
    for same in (teacher, 0 * student, student[:1]):
        loss, _, ours = gradients(ALONE, teacher[: len(same)], same)
        assert np.isfinite(loss) and np.all(np.isfinite(ours))


def test_projector_brings_the_student_to_the_teachers_width():
    teacher, student = (tf.constant(x, tf.float32) for x in embeddings(2, (4, 7)))
    loss = SRD().build(teacher, student)
    (projector,) = loss.layers
    assert loss.notes == ("projector from 7 to 4 features",)
    expected = ALONE.compute_loss(teacher, projector(student))
    np.testing.assert_allclose(loss.compute_loss(teacher, student), expected, rtol=1e-6)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="equal width: .* 4 features, the student's 7"):
        ALONE.build(*embeddings(3, (4, 7)))
    for wrong in ({"projector": "some"}, {"weight": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            SRD(**wrong)


def test_training():
    run_method_test(SRD())
