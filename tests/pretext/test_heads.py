"""Necks, decoders and the shared projection."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from nets.copying import global_policy
from pretext.heads import (
    SharedProjection,
    cross_entropy,
    decoder,
    is_correct,
    places,
    pooled,
    with_places,
)


@pytest.mark.parametrize(
    ("shape", "count"), [((4, 4, 3), 16), ((7, 7, 3), 16), ((1, 2, 3), 2), ((14, 9, 3), 12)]
)
def test_places_are_kept_up_to_four_a_side(shape, count):
    maps = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    found = with_places(tf.constant(maps, tf.bfloat16))
    assert found.dtype == tf.float32
    assert found.shape == (2, places(shape)) == (2, count * 3)
    step = -(-shape[0] // 4), -(-shape[1] // 4)
    first = maps[:, : step[0], : step[1]].mean(axis=(1, 2))
    # "SAME" pads before the first window where the size does not divide, and does not count that.
    if shape[0] % step[0] == shape[1] % step[1] == 0:
        np.testing.assert_allclose(found[:, :3], first, atol=1e-2)
    np.testing.assert_allclose(pooled(tf.constant(maps)), maps.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (64, 49), (5, 3), (224, 224), (2, 2)])
def test_decoders_reach_any_size_everywhere(size):
    keras.utils.set_random_seed(0)
    model = decoder("test", 6, size, 2)
    h = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    maps = model(tf.constant(h)).numpy()
    assert maps.shape == (20, *size, 2)
    assert np.all(maps.std(axis=0) > 0)  # no pixel and no channel is dead


def test_decoders_compute_as_the_policy_says_and_give_float32():
    with global_policy("mixed_bfloat16"):
        model = decoder("test", 6, (16, 16), 2)
    assert model.get_layer("test_up1").compute_dtype == "bfloat16"
    assert model(tf.ones([1, 6])).dtype == tf.float32


def test_classification_by_hand():
    logits = tf.constant([[0.0, np.log(3.0)], [0.0, 0.0], [5.0, 2.0]])
    labels = tf.constant([1, 0, 1])
    expected = np.mean([np.log(4 / 3), np.log(2), np.log(1 + np.exp(3))])
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-6)
    np.testing.assert_array_equal(is_correct(logits, labels), [1, 1, 0])


def test_one_projection_for_all_tasks():
    projection = SharedProjection(5)
    assert [tuple(v.shape) for v in projection.trainable_variables] == [(5, 5)]
    h = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    found = projection(tf.constant(h)).numpy()
    expected = h @ projection.kernel.numpy()
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(projection(tf.zeros([2, 5])), 0)
