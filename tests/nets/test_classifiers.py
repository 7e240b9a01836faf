"""The dense layer that makes a network's logits, and what it is applied to."""

import keras
import pytest
import tensorflow as tf

import nets
from nets.classifiers import averages_for_logits, classifier_of

POOLED = keras.layers.GlobalAveragePooling2D


def logits_after(layers):
    """The maps, and what the layers make of them."""
    found = maps = keras.layers.Conv2D(6, 3, name="deep")(keras.Input((8, 8, 3)))
    for layer in layers:
        found = layer(found)
    return maps, found


def test_plain_head():
    head = keras.layers.Dense(5)
    maps, logits = logits_after([POOLED(), head])
    assert classifier_of(logits) is head
    assert averages_for_logits(logits, maps)


def test_what_only_hands_on_does_not_count():
    head = keras.layers.Dense(5, activation="linear")
    maps, logits = logits_after([
        POOLED(keepdims=True), keras.layers.Flatten(), keras.layers.Dropout(0.5), head,
        lambda x: keras.ops.cast(x, "float16"), lambda x: keras.ops.cast(x, "float32"),
    ])
    assert classifier_of(logits) is head
    assert averages_for_logits(logits, maps)


@pytest.mark.parametrize("ending", [
    keras.layers.Activation("linear", dtype="float32"),  # of a network of mixed precision
    keras.layers.ActivityRegularization(l2=0.1),
    keras.ops.copy,
])
def test_neither_does_an_ending_that_computes_nothing(ending):
    head = keras.layers.Dense(5)
    maps, logits = logits_after([POOLED(), keras.layers.Activation("linear"), head, ending])
    assert classifier_of(logits) is head
    assert averages_for_logits(logits, maps)


def test_of_the_maps_within_a_model_the_averaged_ones_alone():
    within = keras.Input((8, 8, 3))
    shallow = keras.layers.Conv2D(6, 3, name="shallow")(within)
    deep = keras.layers.Conv2D(6, 3, name="deep")(shallow)
    inner = keras.Model(within, deep, name="inner")
    image = keras.Input((8, 8, 3))
    head = keras.layers.Dense(5, name="scores")
    model = keras.Model(image, head(POOLED()(inner(image))))
    outputs = nets.outputs_of(model, taps=["inner/shallow", "inner/deep"])
    features = nets.feature_extractor(model, outputs).output
    assert classifier_of(features["logits"]) is head
    found = [averages_for_logits(features["logits"], maps) for maps in features["maps"]]
    assert found == [False, True]


def test_a_head_within_a_model():
    within = keras.Input((8, 8, 3))
    head = keras.layers.Dense(5)
    inner = keras.Model(within, head(POOLED()(keras.layers.Conv2D(6, 3)(within))))
    assert classifier_of(inner(keras.Input((8, 8, 3)))) is head


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Flatten(), keras.layers.Dense(5)],
        [keras.layers.ReLU(), POOLED(), keras.layers.Dense(5)],
        [POOLED(), keras.layers.Dense(7), keras.layers.Dense(5)],
        [keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(5)],
    ],
    ids=["flat", "another map", "hidden layer", "maximum"],
)
def test_heads_of_other_features(layers):
    maps, logits = logits_after(layers)
    assert classifier_of(logits) is layers[-1]
    assert not averages_for_logits(logits, maps)


@pytest.mark.parametrize(
    "layers",
    [
        [POOLED()],
        [POOLED(), keras.layers.Dense(5, activation="relu")],
        [POOLED(), keras.layers.Dense(5), keras.layers.ReLU()],
        [keras.layers.Conv2D(5, 1), POOLED()],
    ],
    ids=["no dense layer", "activation", "ReLU", "convolution"],
)
def test_logits_without_a_linear_layer(layers):
    assert classifier_of(logits_after(layers)[1]) is None


def test_tensors_of_no_graph():
    assert classifier_of(tf.zeros([2, 5])) is None
    assert not averages_for_logits(tf.zeros([2, 5]), tf.zeros([2, 4, 4, 3]))


def test_a_layer_that_serves_twice():
    """The call that made these logits counts, not the layer's first one."""
    head = keras.layers.Dense(5)
    maps = keras.layers.Conv2D(6, 3)(keras.Input((8, 8, 3)))
    by_maximum, by_average = (
        head(pool()(maps)) for pool in (keras.layers.GlobalMaxPooling2D, POOLED)
    )
    assert not averages_for_logits(by_maximum, maps)
    assert averages_for_logits(by_average, maps)
