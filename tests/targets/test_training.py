"""The loop of short training runs against Adam computed by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from targets.training import Trainer, labelled_batches
from tests.targets import small


def test_adam_steps_follow_a_cosine_and_each_training_restarts():
    target = np.array([1.0, -2.0, 3.0], np.float32)
    variable = keras.Variable(np.zeros(3, np.float32))
    counter = keras.Variable(0.0, trainable=False)

    def loss(point):
        counter.assign_add(1.0)
        return tf.reduce_sum((variable.value - point) ** 2)

    trainer = Trainer(loss, [variable], [counter], steps=5)
    expected, first, second = np.zeros(3), np.zeros(3), np.zeros(3)
    for step in range(5):
        rate = 0.1 * (1 + np.cos(np.pi * step / 5)) / 2
        gradient = 2 * (expected - target)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        expected = expected - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-7)
    for _ in range(2):
        trainer.train(((tf.constant(target),) for _ in range(9)), 0.1)
        np.testing.assert_allclose(variable, expected, rtol=1e-5)
        assert float(counter) == 5


@pytest.mark.parametrize("count", [3, 20])
def test_batches_of_few_images(count):
    split = small.split(count, 3, seed=0)
    batches = list(labelled_batches(split, 8, steps=7, seed=0, flip=False))
    assert len(batches) == 7
    assert all(len(images) == len(labels) <= 8 for images, labels in batches)
    seen = np.concatenate([labels for _, labels in batches[: -(-count // min(8, count))]])
    assert sorted(seen) == sorted(split.labels)


@pytest.mark.parametrize(("count", "sizes"), [(33, [17, 16]), (130, [26] * 5), (32, [32])])
def test_no_step_is_trained_on_a_rest_of_few_images(count, sizes):
    split = small.split(count, 3, seed=0)
    batches = labelled_batches(split, 32, steps=len(sizes), seed=0, flip=False)
    assert [len(images) for images, _ in batches] == sizes
