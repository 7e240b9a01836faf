"""WKD_L against a loop and against exact transport by linear programming."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import linprog
from scipy.special import log_softmax, softmax

import distillers
import nets
from distillers.wkd_l import wasserstein_distance
from nets import feature_extractor
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients, logits
from tests.distillers.models import network, outputs

WKD_L = distillers.get("WKD_L")
LABELS = np.array([3, 0, -1, 4, 1, -1, 2], "int32")
CLASSIFIER = np.random.default_rng(9).normal(size=(5, 8))


def costs():
    rows = [row / np.linalg.norm(row) for row in CLASSIFIER]
    return np.array([[1 - a @ b for b in rows] for a in rows])


def by_loop(teacher, student, temperature, gamma, regularization, iterations):
    """With the true class taken out, where the code gives it probability 0."""
    losses = []
    for theirs, ours, label in zip(teacher, student, LABELS, strict=True):
        if label < 0:
            continue
        rest = [c for c in range(5) if c != label]
        p, q = softmax(theirs[rest] / temperature), softmax(ours[rest] / temperature)
        cost = np.maximum(costs()[np.ix_(rest, rest)], 0) + 1e-8
        kernel, u = np.exp(-cost / regularization), np.ones(4) / 4
        for _ in range(iterations):
            v = p / (kernel.T @ u + 1e-8)
            u = q / (kernel @ v + 1e-8)
        distance = np.sum(u[:, None] * kernel * v * cost)
        losses.append(-softmax(theirs)[label] * log_softmax(ours)[label] + gamma * distance)
    return np.mean(losses)


@pytest.mark.parametrize("values", [(4.0, 2.0, 0.05, 10), (1.0, 0.5, 2.0, 3), (8.0, 0.0, 1.0, 1)])
def test_loss_equals_a_loop_over_labelled_images(values):
    teacher, student = logits(0)
    names = ("temperature", "gamma", "regularization", "iterations")
    found = WKD_L(**dict(zip(names, values, strict=True))).compute_loss(
        tf.constant(teacher), tf.constant(student), labels=LABELS, teacher_classifier=CLASSIFIER
    )
    np.testing.assert_allclose(found, by_loop(teacher, student, *values), rtol=1e-9)


def test_a_single_class_has_no_loss_and_no_gradient():
    loss, _, ours = gradients(
        WKD_L(), np.ones([7, 1]), 2 * np.ones([7, 1]), labels=np.zeros(7, "int32"),
        teacher_classifier=CLASSIFIER[:1],
    )
    assert loss == 0 and not np.any(ours)


def test_distance_is_that_of_the_cheapest_transport():
    p, q = (softmax(x[:1], axis=1) for x in logits(1, scale=1.0))
    cost = costs()
    marginals = np.concatenate([
        np.kron(np.eye(5), np.ones(5)), np.kron(np.ones(5), np.eye(5)),
    ])
    exact = linprog(cost.ravel(), A_eq=marginals, b_eq=np.concatenate([q[0], p[0]])).fun
    found = wasserstein_distance(
        tf.constant(q), tf.constant(p), tf.zeros([1, 5], bool), tf.constant(cost),
        regularization=0.07, iterations=500,
    )
    np.testing.assert_allclose(found, exact, rtol=0.02)


def test_gradient():
    teacher, student = logits(2)
    given = {"labels": LABELS, "teacher_classifier": CLASSIFIER}
    assert_gradient(WKD_L(), teacher, student, **given)
    loss, _, ours = gradients(WKD_L(), teacher, student, **given)
    assert np.all(np.any(ours.numpy() != 0, axis=1) == (LABELS >= 0))
    loss, _, ours = gradients(WKD_L(), 1e3 * teacher, -1e3 * student, **given)
    assert np.isfinite(loss) and np.all(np.isfinite(ours))
    assert_finite_in_bfloat16(WKD_L(gamma=2.0), teacher, student, **given)


def test_classifier_of_the_teacher_is_found_as_it_is_now():
    teacher, student = network(2, "teacher", width=2), network(1, "student")
    features = [feature_extractor(model, outputs(model)) for model in (teacher, student)]
    method = WKD_L(gamma=2.0)
    loss = method.build(*(model.output["logits"] for model in features))
    image, labels = np.random.default_rng(0).normal(size=(7, 8, 8, 3)), LABELS
    given = [model(image)["logits"] for model in features]
    kernel = teacher.get_layer("scores").kernel
    for _ in range(2):
        expected = method.compute_loss(
            *given, labels=labels, teacher_classifier=tf.transpose(kernel.value)
        )
        assert loss.compute_loss(*given, labels=labels) == expected
        kernel.assign(tf.math.sin(kernel.value * 50))


def test_what_makes_no_sense_is_refused():
    x = tf.zeros([2, 5])
    with pytest.raises(UserError, match="WKD_L needs teacher_classifier"):
        WKD_L().compute_loss(x, x, labels=[0, 1])
    with pytest.raises(UserError, match=r"of 5 classes, not one of shape \(8, 5\)"):
        WKD_L().compute_loss(x, x, labels=[0, 1], teacher_classifier=CLASSIFIER.T)
    with pytest.raises(UserError, match="needs labels"):
        WKD_L().compute_loss(x, x, teacher_classifier=CLASSIFIER)
    with pytest.raises(TypeError, match="takes no student_classifier"):
        WKD_L().compute_loss(x, x, labels=[0, 1], student_classifier=CLASSIFIER)
    for wrong in ({"temperature": 0.0}, {"gamma": -1.0}, {"regularization": 0.0},
                  {"iterations": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            WKD_L(**wrong)
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(6, 3, name="shallow")(image)
    pooled = keras.layers.GlobalAveragePooling2D(name="scores")(maps)
    model = keras.Model(image, pooled, name="teacher")
    without = feature_extractor(model, nets.outputs_of(model, taps=["shallow"]))
    with pytest.raises(UserError, match="teacher's logits, and they come from 'scores'"):
        WKD_L().build(without.output["logits"], tf.zeros([2, 6]))


def test_training():
    run_method_test(WKD_L())
