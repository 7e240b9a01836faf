"""Classifiers found at the end of networks, and new ones in their place."""

import keras
import numpy as np
import pytest

import nets
from nets import embedding_layer, output_layer_of
from registry import UserError
from tests.read_by_keras import read_by_keras
from tests.transformer import transformer

IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")


def convolutional(*ends):
    """Layers `ends` after a convolution."""
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, activation="relu", name="convolution")(image)
    for end in ends:
        maps = end(maps)
    return keras.Model(image, maps, name="network")


def pooled(*ends):
    return convolutional(keras.layers.GlobalAveragePooling2D(name="pooled"), *ends)


@pytest.mark.parametrize("ends", [
    (keras.layers.Dense(6, name="end"),),
    (keras.layers.Dense(6, "softmax", name="end"),),
    (keras.layers.Dense(6, name="end"), keras.layers.Softmax()),
    (keras.layers.Reshape((1, 1, 4)), keras.layers.Conv2D(6, 1, name="end"),
     keras.layers.Flatten(), keras.layers.Activation("softmax")),
])
def test_the_classifier_is_the_layer_that_makes_the_logits(ends):
    found = nets.find_classifier(pooled(*ends))
    assert (found.layer.name, found.classes, found.features.shape[-1]) == ("end", 6, 4)


@pytest.mark.parametrize("ends", [
    (keras.layers.Conv2D(6, 1, name="end"), keras.layers.GlobalAveragePooling2D()),
    (keras.layers.Dense(6, name="end"), keras.layers.GlobalAveragePooling2D(keepdims=True),
     keras.layers.Flatten(), keras.layers.Softmax()),
])
def test_logits_at_each_position_may_be_averaged(ends):
    model = convolutional(*ends)
    found = nets.find_classifier(model)
    assert (found.layer.name, found.classes, found.features.shape) == ("end", 6, (None, 6, 6, 4))
    renewed = nets.with_new_classifier(model, 2)
    averaged = keras.Model(model.input, renewed.get_layer("features").output)(IMAGES)
    before = keras.Model(model.input, model.get_layer("convolution").output)(IMAGES)
    np.testing.assert_allclose(averaged, np.mean(before, (1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [
    lambda: pooled(),
    lambda: pooled(keras.layers.LayerNormalization()),
    lambda: pooled(keras.layers.Dense(6, activation="relu")),
    lambda: pooled(keras.layers.Dense(6), keras.layers.Activation("relu")),
    lambda: convolutional(),
    lambda: convolutional(keras.layers.LayerNormalization()),
    lambda: convolutional(
        keras.layers.Conv2D(6, 1, activation="relu"), keras.layers.GlobalAveragePooling2D()
    ),
    lambda: convolutional(keras.layers.Conv2D(6, 3), keras.layers.GlobalAveragePooling2D()),
    lambda: convolutional(
        keras.layers.Conv2D(6, 1), keras.layers.Softmax(), keras.layers.GlobalAveragePooling2D()
    ),
])
def test_features_are_no_classifier(make):
    assert nets.find_classifier(make()) is None


@pytest.mark.parametrize(("make", "features"), [
    (lambda: pooled(keras.layers.Dense(6, name="logits")), "pooled"),
    (lambda: pooled(), "pooled"),
    (lambda: convolutional(), "convolution"),
    (lambda: transformer(), "token"),
])
def test_a_new_classifier_gets_the_same_features(make, features):
    model = make()
    given = np.asarray(keras.Model(model.input, model.get_layer(features).output)(IMAGES))
    given = given.mean((1, 2)) if given.ndim == 4 else given
    renewed = nets.with_new_classifier(model, 2)
    assert renewed.name == model.name and renewed.layers[-1].name == "logits"
    kernel, bias = renewed.layers[-1].get_weights()
    np.testing.assert_allclose(renewed(IMAGES), given @ kernel + bias, rtol=1e-4, atol=1e-5)
    found = keras.Model(renewed.input, renewed.get_layer("features").output)(IMAGES)
    np.testing.assert_allclose(found, given, rtol=1e-4, atol=1e-5)
    assert {id(v) for v in renewed.variables[:-2]} <= {id(v) for v in model.variables}


def test_a_model_that_keras_itself_read_in_a_new_process(tmp_path):
    """Its own pooling is named as the one that is added."""
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, name="maps")(image)
    scale = keras.layers.GlobalAveragePooling2D(keepdims=True)(maps)
    scaled = keras.layers.Multiply()([maps, scale])
    model = read_by_keras(keras.Model(image, scaled, name="network"), tmp_path)
    features = np.mean(model(IMAGES), axis=(1, 2))
    renewed = nets.with_new_classifier(model, 2)
    kernel, bias = renewed.layers[-1].get_weights()
    np.testing.assert_allclose(renewed(IMAGES), features @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_a_classifier_within_a_model_in_the_model_is_refused():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6)], name="inner")
    with pytest.raises(UserError, match="of model 'network' lies in the model 'inner' within it"):
        nets.with_new_classifier(pooled(inner), 2)
    outer = pooled(inner)
    assert embedding_layer(outer) == output_layer_of(outer.layers[-1].input)
    image = keras.Input((8, 8, 3))
    wrapped = keras.Model(image, outer(keras.layers.Rescaling(2.0)(image)))
    assert embedding_layer(wrapped) == f"{outer.name}/{embedding_layer(outer)}"
