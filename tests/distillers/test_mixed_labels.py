"""Mixed images and smoothed labels in the main loss, by NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from distillers import DKD, Distiller, NoDistillation
from distillers.batch import Batch, as_batch, cross_entropy, main_cross_entropy

CLASSES, COUNT = 5, 6
LOGITS = np.random.default_rng(0).normal(size=(COUNT, CLASSES)).astype(np.float32)
LABELS = np.array([0, 1, 2, -1, 4, -1], np.int32)
OTHERS = np.array([3, 1, -1, 2, 0, -1], np.int32)
SHARES = np.array([0.5, 0.8, 0.7, 0.6, 1.0, 0.9], np.float32)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def log_softmax(logits):
    logits = logits.astype(float)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def expected_loss(logits, labels, others, shares, smoothing):
    """The sum of ``-target . log p`` over the images, and of what is labelled of them."""
    log = log_softmax(logits)
    total, known = 0.0, 0.0
    for row, label, other, share in zip(log, labels, others, shares, strict=True):
        for part, name in ((share, label), (1 - share, other)):
            if name >= 0:
                target = np.full(CLASSES, smoothing / CLASSES)
                target[name] += 1 - smoothing
                total -= part * target @ row
                known += part
    return total, known


def mixed_batch(labels=LABELS, others=OTHERS):
    image = tf.zeros([COUNT, 1])
    return Batch(image, tf.constant(labels), None, tf.ones([COUNT]), tf.constant(SHARES),
                 tf.constant(others))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_both_labels_count_by_their_shares(smoothing):
    loss, known = main_cross_entropy(tf.constant(LOGITS), mixed_batch(), smoothing)
    total, labelled = expected_loss(LOGITS, LABELS, OTHERS, SHARES, smoothing)
    assert float(tf.reduce_sum(loss * known)) == pytest.approx(total, rel=1e-5)
    assert float(tf.reduce_sum(known)) == pytest.approx(labelled, rel=1e-6)
    assert float(known[-1]) == 0 and float(loss[-1]) == 0


def test_label_smoothing_is_kerass():
    loss, _ = cross_entropy(tf.constant(LOGITS), tf.constant(np.maximum(LABELS, 0)), 0.2)
    expected = keras.losses.categorical_crossentropy(
        keras.ops.one_hot(np.maximum(LABELS, 0), CLASSES), LOGITS, from_logits=True,
        label_smoothing=0.2,
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_what_is_missing_is_not_mixed():
    batch = as_batch({"image": tf.zeros([3, 1]), "label": tf.constant([1, -1, 2])})
    np.testing.assert_array_equal(batch.share, [1, 1, 1])
    np.testing.assert_array_equal(batch.other_label, [1, -1, 2])


def network():
    image = keras.Input((8, 8, 3), name="image")
    maps = keras.layers.Conv2D(4, 3, strides=2, name="tap")(image)
    logits = keras.layers.Dense(CLASSES, name="logits")(keras.layers.Flatten()(maps))
    return keras.Model(image, logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_step_minimises_it(smoothing, random):
    """SGD's step by the gradient of the loss written down here; validation is not smoothed."""
    student = network()
    images = random.normal(size=(COUNT, 8, 8, 3)).astype(np.float32)
    data = {"image": images, "label": LABELS, "other_label": OTHERS, "share": SHARES}
    before = [tf.constant(weight) for weight in student.get_weights()]
    with tf.GradientTape() as tape:
        log = tf.nn.log_softmax(student(images))
        targets = np.zeros([COUNT, CLASSES], np.float32)
        for row, label, other, share in zip(targets, LABELS, OTHERS, SHARES, strict=True):
            for part, name in ((share, label), (1 - share, other)):
                if name >= 0:
                    row += part * smoothing / CLASSES
                    row[name] += part * (1 - smoothing)
        loss = -tf.reduce_sum(targets * log) / targets.sum()
    gradients = tape.gradient(loss, student.trainable_variables)
    distiller = Distiller(student, NoDistillation(), weight_decay=0.0, label_smoothing=smoothing)
    distiller.compile(keras.optimizers.SGD(0.1))
    logs = distiller.fit(
        tf.data.Dataset.from_tensors(data), verbose=0, epochs=1
    ).history
    assert logs["main_loss"][0] == pytest.approx(float(loss), rel=1e-5)
    for weight, old, gradient in zip(student.get_weights(), before, gradients, strict=True):
        np.testing.assert_allclose(weight, old - 0.1 * gradient, rtol=1e-4, atol=1e-6)
    plain = distiller.evaluate(tf.data.Dataset.from_tensors(data), verbose=0, return_dict=True)
    labelled = LABELS >= 0
    log = log_softmax(np.asarray(student(images)))[labelled, LABELS[labelled]]
    assert plain["main_loss"] == pytest.approx(-log.mean(), rel=1e-4)


def test_a_method_is_told_the_larger_parts_label(random):
    images = random.normal(size=(COUNT, 8, 8, 3)).astype(np.float32)
    losses = []
    for more in ({}, {"other_label": OTHERS, "share": SHARES}):
        keras.utils.set_random_seed(1)
        student, teacher = network(), network()
        distiller = Distiller(student, DKD(), teacher, weight_decay=0.0)
        distiller.compile(keras.optimizers.SGD(0.0))
        data = tf.data.Dataset.from_tensors({"image": images, "label": LABELS, **more})
        losses.append(distiller.fit(data, verbose=0).history["distillation_loss"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6) and losses[0] > 0
