"""CC against loops over neighbouring samples, and over pairs of samples."""

import math

import numpy as np
import pytest
import tensorflow as tf

import distillers
from registry import UserError
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients

CC = distillers.get("CC")


def embeddings(seed, samples=6):
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, 9)), random.normal(size=(samples, 4))


def built(teacher, student, **hyper_parameters):
    method = CC(**hyper_parameters)
    method.build(tf.constant(teacher), tf.constant(student))
    return method


def embedded(layer, samples):
    kernel, bias = (np.array(weight, np.float64) for weight in layer.weights)
    return samples @ kernel + bias


def test_repdistillers_loss_equals_a_loop():
    teacher, student = embeddings(0)
    method = built(teacher, student, embedding_size=5)
    for layer in method.layers:
        layer.bias.assign(np.random.default_rng(1).normal(size=5))
    theirs, ours = (
        embedded(layer, x) for layer, x in zip(method.layers, (teacher, student), strict=True)
    )
    products = []
    for i in range(5):
        products.append(sum(
            abs(ours[i, d] - theirs[i, d]) * abs(ours[i + 1, d] - theirs[i + 1, d])
            for d in range(5)
        ))
    found = method.compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, np.mean(products), rtol=1e-5)


def test_both_layers_are_trained_and_the_teacher_is_not():
    teacher, student = (x.astype("float32") for x in embeddings(2))
    method = built(teacher, student)
    assert {layer.name for layer in method.layers} == {"cc_teacher", "cc_student"}
    variables = [v for layer in method.layers for v in layer.trainable_variables]
    with tf.GradientTape() as tape:
        watched = tf.constant(teacher), tf.constant(student)
        tape.watch(watched)
        loss = method.compute_loss(*watched)
    theirs, ours, *others = tape.gradient(loss, [*watched, *(v.value for v in variables)])
    assert theirs is None and np.any(ours)
    assert len(others) == 4 and all(np.any(gradient) for gradient in others)


def test_the_papers_loss_equals_a_loop():
    teacher, student = embeddings(3)
    kernels = []
    for samples in (teacher, student):
        unit = [x / np.linalg.norm(x) for x in samples]
        kernels.append([
            [
                math.exp(-0.8) * sum((0.8 * a @ b) ** p / math.factorial(p) for p in range(3))
                for b in unit
            ]
            for a in unit
        ])
    method = built(teacher, student, definition="paper")
    assert not method.layers
    found = method.compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, np.mean(np.square(np.subtract(*kernels))), rtol=1e-9)
    assert_gradient(method, teacher, student)


def test_the_series_is_that_of_the_gaussian_kernel():
    teacher, student = embeddings(4)
    found = CC(definition="paper", gamma=0.7, order=30).compute_loss(
        tf.constant(teacher), tf.constant(student)
    )
    kernels = []
    for samples in (teacher, student):
        unit = samples / np.linalg.norm(samples, axis=1, keepdims=True)
        kernels.append([[np.exp(-0.7 * np.sum((a - b) ** 2)) for b in unit] for a in unit])
    np.testing.assert_allclose(found, np.mean(np.square(np.subtract(*kernels))), rtol=1e-9)


@pytest.mark.parametrize("definition", ["repdistiller", "paper"])
def test_zeros_one_sample_and_low_precision(definition):
    teacher, student = embeddings(5)
    method = built(teacher, student, definition=definition)
    assert_finite_in_bfloat16(method, teacher, student)
    student[2] = 0
    student[3] = student[1]
    loss, _, ours = gradients(method, teacher, student)
    assert np.isfinite(loss) and np.all(np.isfinite(ours))
    loss, _, ours = gradients(method, teacher[:1], student[:1])
    np.testing.assert_allclose(loss, 0, atol=1e-12)
    np.testing.assert_allclose(ours, 0, atol=1e-12)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="unknown definition 'papers'.*did you mean 'paper'"):
        CC(definition="papers")
    for wrong in ({"embedding_size": 0}, {"gamma": -1.0}, {"order": 0}, {"weight": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            CC(**wrong)
