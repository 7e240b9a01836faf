"""DKD against a loop over images and classes."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients, logits

DKD = distillers.get("DKD")
LABELS = np.array([3, 0, -1, 4, 1, -1, 2], "int32")


def by_loop(teacher, student, labels, alpha, beta, temperature):
    losses = []
    for theirs, ours, label in zip(teacher, student, labels, strict=True):
        if label < 0:
            continue
        p, q = softmax(theirs / temperature), softmax(ours / temperature)
        others = [c for c in range(len(p)) if c != label]
        target = p[label] * np.log(p[label] / q[label])
        target += (1 - p[label]) * np.log((1 - p[label]) / (1 - q[label]))
        among = 0.0
        for c in others:
            a, b = p[c] / (1 - p[label]), q[c] / (1 - q[label])
            among += a * np.log(a / b)
        losses.append(temperature**2 * (alpha * target + beta * among))
    return np.mean(losses)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (0.5, 0.0, 1.0)])
def test_loss_equals_a_loop_over_labelled_images(alpha, beta, temperature):
    teacher, student = logits(0)
    method = DKD(alpha=alpha, beta=beta, temperature=temperature)
    found = method.compute_loss(tf.constant(teacher), tf.constant(student), labels=LABELS)
    expected = by_loop(teacher, student, LABELS, alpha, beta, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_both_parts_add_up_to_soft_logits():
    """KD = TCKD + (1 - p_target) NCKD, equation 6, with one image at a time."""
    teacher, student = logits(1)
    for i, label in enumerate(np.maximum(LABELS, 0)):
        parts = [
            DKD(alpha=a, beta=b, temperature=1.0).compute_loss(
                tf.constant(teacher[i : i + 1]), tf.constant(student[i : i + 1]), labels=[label]
            )
            for a, b in ((1.0, 0.0), (0.0, 1.0))
        ]
        p, q = softmax(teacher[i]), softmax(student[i])
        np.testing.assert_allclose(
            parts[0] + (1 - p[label]) * parts[1], np.sum(p * np.log(p / q)), rtol=1e-9
        )


def test_gradient():
    teacher, student = logits(2)
    assert_gradient(DKD(), teacher, student, labels=LABELS)
    _, _, ours = gradients(DKD(), teacher, student, labels=LABELS)
    assert np.all(np.any(ours.numpy() != 0, axis=1) == (LABELS >= 0))


def test_a_batch_without_labels_and_logits_of_any_size():
    teacher, student = logits(3)
    loss, _, ours = gradients(DKD(), teacher, student, labels=np.full(7, -1, "int32"))
    assert loss == 0 and not np.any(ours)
    loss, _, ours = gradients(DKD(temperature=1.0), 1e4 * teacher, -1e4 * student, labels=LABELS)
    assert np.isfinite(loss) and np.all(np.isfinite(ours))
    loss, _, ours = gradients(DKD(), teacher, teacher, labels=LABELS)
    np.testing.assert_allclose(loss, 0, atol=1e-12)
    np.testing.assert_allclose(ours, 0, atol=1e-12)
    assert_finite_in_bfloat16(DKD(), teacher, student, labels=LABELS)


def test_warm_up_is_a_share_of_the_run():
    """20 of the authors' 240 epochs; it belongs to the stage, not to the loss."""
    teacher, student = (tf.constant(x) for x in logits(4))
    loss = DKD(weight=3.0).build(teacher, student)
    assert (loss.stage().warmup, loss.stage().weight) == (0.083, 3)
    assert round(240 * loss.stage().warmup) == 20
    losses = [
        DKD(warmup=warmup).compute_loss(teacher, student, labels=LABELS, epoch=tf.constant(0))
        for warmup in (0, 1)
    ]
    assert losses[0] == losses[1] != 0


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="6 logits, the student 5"):
        DKD().build(tf.zeros([2, 6]), tf.zeros([2, 5]))
    with pytest.raises(UserError, match="DKD needs labels"):
        DKD().compute_loss(tf.zeros([2, 5]), tf.zeros([2, 5]))
    for wrong in ({"temperature": 0.0}, {"alpha": -1.0}, {"beta": np.nan}, {"warmup": 2}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            DKD(**wrong)


def test_training():
    run_method_test(DKD())
