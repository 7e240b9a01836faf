"""The loss of supervised fine-tuning for metric learning."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from dataloader import Split
from targets import metric_tuning
from targets.metric_tuning import metric_tuned
from tests.targets import small


class Untrained:
    """Has what a `Trainer` is given, and trains nothing."""

    def __init__(self, loss, trained, state, steps):
        Untrained.given = loss, trained, steps

    def train(self, batches, learning_rate):
        pass


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.05, 0.4])
def test_the_loss_is_the_cross_entropy_of_cosines_to_the_means_of_classes(
    monkeypatch, temperature
):
    """Of classes whose numbers leave some out."""
    monkeypatch.setattr(metric_tuning, "Trainer", Untrained)
    encoder, numbers = small.encoder(batch_norm=False), np.array([1, 4, 6])
    whole = small.split(12, 3, seed=0)
    images = whole.images(range(12))
    split = Split.whole(whole.store, numbers[whole.labels])
    metric_tuned(encoder, split, steps=7, temperature=temperature)
    loss, trained, steps = Untrained.given
    vectors = unit(encoder(images)["embedding"].numpy().astype(float))
    proxies = unit(np.stack([vectors[whole.labels == each].mean(axis=0) for each in range(3)]))
    shares = log_softmax(vectors @ proxies.T / temperature, axis=1)
    expected = -np.mean(shares[np.arange(12), whole.labels])
    np.testing.assert_allclose(loss(images, tf.constant(split.labels)), expected, rtol=1e-4)
    np.testing.assert_allclose(trained[-1], proxies, rtol=1e-4, atol=1e-6)
    assert steps == 7
