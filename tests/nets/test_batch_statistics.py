"""Recomputed statistics are those that NumPy finds of the same maps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets

BATCHES = [
    np.random.default_rng(0).normal(3, 2, [count, 4, 4, 2]).astype(np.float32)
    for count in (5, 5, 3)
]


def network(policy="float32", nested=False, fused=False, synchronized=False, dropout=0.0):
    """Two batch normalisations with a 1x1 convolution between them, and a third behind dropout."""
    def norm(name):
        return keras.layers.BatchNormalization(name=name, dtype=policy, synchronized=synchronized)

    image = keras.Input((4, 4, 2))
    maps = norm("first")(image)
    maps = keras.layers.Conv2D(3, 1, name="mix", use_bias=False, dtype=policy)(maps)
    maps = keras.layers.Dropout(dropout, name="drop", dtype=policy)(norm("second")(maps))
    body = keras.Model(image, norm("third")(maps), name="body")
    model = body
    if nested:
        outer = keras.Input((4, 4, 2))
        model = keras.Model(outer, keras.layers.Flatten()(body(outer)))
    return (nets.fuse_batch_normalization(model) if fused else model), body


def test_batch_renormalisation():
    image = keras.Input((4, 4, 2))
    layer = keras.layers.BatchNormalization(renorm=True)
    model = keras.Model(image, layer(image))
    model(BATCHES[0], training=True)  # so that all statistics have moved
    kept = [np.array(v) for v in (layer.renorm_mean, layer.renorm_stddev)]
    assert nets.recompute_batch_statistics(model, BATCHES) == 1
    every = np.concatenate(BATCHES)
    variance = every.var((0, 1, 2))
    np.testing.assert_allclose(layer.moving_mean, every.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, variance, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_stddev, np.sqrt(variance + 1e-3), rtol=1e-5)
    np.testing.assert_array_equal(kept, [layer.renorm_mean, layer.renorm_stddev])
    assert layer.renorm


def expected(body):
    """(mean, variance) of what each layer is given, by the definition, in float64."""
    kernel = np.float64(body.get_layer("mix").kernel.numpy())[0, 0]
    maps, found = [np.float64(batch) for batch in BATCHES], []
    for place in range(3):
        every = np.concatenate(maps)
        found.append((every.mean((0, 1, 2)), every.var((0, 1, 2))))
        maps = [(x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3) for x in maps]
        maps = [x @ kernel for x in maps] if place == 0 else maps
    return found


def check(body, tolerance=1e-4):
    for name, (mean, variance) in zip(("first", "second", "third"), expected(body), strict=True):
        layer = body.get_layer(name)
        np.testing.assert_allclose(layer.moving_mean, mean, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(layer.moving_variance, variance, rtol=tolerance, atol=tolerance)
        assert layer.momentum == 0.99


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 1e-4), ({"nested": True}, 1e-4), ({"fused": True}, 1e-4),
        ({"nested": True, "fused": True, "dropout": 0.5}, 1e-4), ({"synchronized": True}, 1e-4),
        ({"policy": "mixed_bfloat16"}, 3e-2), ({"policy": "mixed_bfloat16", "fused": True}, 3e-2),
    ],
)
def test_statistics_are_those_of_all_positions_of_all_batches(options, tolerance):
    model, body = network(**options)
    body.get_layer("first").moving_mean.assign([np.nan, 7.0])  # of a run that went wrong
    assert nets.recompute_batch_statistics(model, iter(BATCHES)) == 3
    check(body, tolerance)


def test_nothing_else_changes_and_the_same_comes_again():
    model, body = network(dropout=0.5, fused=True)
    statistics = {id(v) for layer in body.layers for v in layer.non_trainable_variables
                  if "moving" in v.path}
    others = [v for v in model.variables if id(v) not in statistics]
    before = [np.array(v) for v in others]
    kinds = [vars(layer).get("call") for layer in body.layers]
    nets.recompute_batch_statistics(model, BATCHES)
    first = [np.array(v) for v in model.variables]
    nets.recompute_batch_statistics(model, BATCHES)
    for variable, value in zip(model.variables, first, strict=True):
        np.testing.assert_array_equal(variable, value)
    for variable, value in zip(others, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert [vars(layer).get("call") for layer in body.layers] == kinds
    assert len(others) == 1 + 6 + 1  # kernel, scales and offsets, the dropout's state


def test_a_layer_that_is_frozen_or_not_there_is_left_alone():
    def refuse():
        raise AssertionError("batches are not looked at")
        yield

    image = keras.Input((4, 4, 2))
    assert nets.recompute_batch_statistics(keras.Model(image, image + 1), refuse()) == 0
    model, body = network()
    body.get_layer("second").trainable = False
    assert nets.recompute_batch_statistics(model, BATCHES) == 2
    np.testing.assert_array_equal(body.get_layer("second").moving_mean, [0] * 3)
    np.testing.assert_allclose(body.get_layer("first").moving_mean, expected(body)[0][0], rtol=1e-4)


def test_a_layer_that_is_called_twice_has_the_statistics_of_both_calls():
    image = keras.Input((4, 4, 2))
    shared = keras.layers.BatchNormalization()
    model = keras.Model(image, shared(image) + shared(3 * image + 1))
    nets.recompute_batch_statistics(model, BATCHES)
    every = np.concatenate(BATCHES).astype("float64")
    both = np.concatenate([every, 3 * every + 1])
    np.testing.assert_allclose(shared.moving_mean, both.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(shared.moving_variance, both.var((0, 1, 2)), rtol=1e-4)


def test_a_failure_leaves_the_model_as_it_was():
    model, body = network(fused=True)
    body.get_layer("first").moving_mean.assign([5.0, 7.0])

    def broken():
        yield BATCHES[0]
        raise OSError

    for batches, error in (([], ValueError), (broken(), OSError)):
        with pytest.raises(error):
            nets.recompute_batch_statistics(model, batches)
        np.testing.assert_array_equal(body.get_layer("first").moving_mean, [5.0, 7.0])
        assert body.get_layer("first").momentum == 0.99


def test_a_student_of_a_distribution_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model, body = network(fused=True, synchronized=True)
    nets.recompute_batch_statistics(model, BATCHES)
    check(body)
