"""CC against loops over neighbouring samples, and over pairs of samples."""

import math

import numpy as np
import pytest
import tensorflow as tf

import distillers
from registry import UserError
from tests.distillers.harness import run_method_test
from tests.distillers.losses import assert_finite_in_bfloat16, assert_gradient, gradients

CC = distillers.get("CC")


def embeddings(seed, samples=6):
    random = np.random.default_rng(seed)
    return random.normal(size=(samples, 9)), random.normal(size=(samples, 4))


def built(teacher, student, **hyper_parameters):
    return CC(**hyper_parameters).build(tf.constant(teacher), tf.constant(student))


def embedded(layer, samples):
    kernel, bias = (np.array(weight, np.float64) for weight in layer.weights)
    return samples @ kernel + bias


def test_repdistillers_loss_equals_a_loop():
    teacher, student = embeddings(0)
    loss = built(teacher, student, embedding_size=5)
    for layer in loss.layers:
        layer.bias.assign(np.random.default_rng(1).normal(size=5))
    theirs, ours = (
        embedded(layer, x) for layer, x in zip(loss.layers, (teacher, student), strict=True)
    )
    products = []
    for i in range(5):
        products.append(sum(
            abs(ours[i, d] - theirs[i, d]) * abs(ours[i + 1, d] - theirs[i + 1, d])
            for d in range(5)
        ))
    found = loss.compute_loss(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(found, np.mean(products), rtol=1e-5)


def test_training():
    distiller = run_method_test(CC())
    assert {layer.name for layer in distiller.method_layers} == {"cc_teacher", "cc_student"}


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
    method = CC(definition="paper")
    assert not method.build(teacher, student).layers
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
    built_loss = built(teacher, student, definition=definition)
    assert_finite_in_bfloat16(built_loss, teacher, student)
    student[2] = 0
    student[3] = student[1]
    loss, _, ours = gradients(built_loss, teacher, student)
    assert np.isfinite(loss) and np.all(np.isfinite(ours))
    loss, _, ours = gradients(built_loss, teacher[:1], student[:1])
    np.testing.assert_allclose(loss, 0, atol=1e-12)
    np.testing.assert_allclose(ours, 0, atol=1e-12)


def test_what_makes_no_sense_is_refused():
    teacher, student = embeddings(6)
    with pytest.raises(UserError, match="CC has layers of its own"):
        CC().compute_loss(tf.constant(teacher), tf.constant(student))
    with pytest.raises(UserError, match="definition: unknown value 'papers' .did you mean 'paper'"):
        CC(definition="papers")
    for wrong in ({"embedding_size": 0}, {"gamma": -1.0}, {"order": 0}, {"weight": 0.0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            CC(**wrong)
