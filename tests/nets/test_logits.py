"""Wherever a softmax or a sigmoid is, it is found and taken off, or the model refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from registry import UserError

IMAGES = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype("float32")


def image():
    return keras.Input((4, 4, 3))


def scores(tensor, **options):
    return keras.layers.Dense(5, name="scores", **options)(keras.layers.Flatten()(tensor))


def inner(activation="softmax", kind="activation"):
    start = image()
    if kind == "layer":
        return keras.Model(start, keras.layers.Softmax()(scores(start)), name="inner")
    return keras.Model(start, scores(start, activation=activation), name="inner")


def sequential(*layers):
    return keras.Sequential([keras.Input((4, 4, 3)), *layers])


def after(make):
    """A model that ends in what `make` makes of logits."""
    def build():
        start = image()
        return keras.Model(start, make(scores(start)))
    return build


ENDINGS = {
    "activation": lambda: inner(),
    "sigmoid": lambda: inner("sigmoid"),
    "hard sigmoid": lambda: inner("hard_sigmoid"),
    "activation of TensorFlow": lambda: inner(tf.nn.softmax),
    "sigmoid of TensorFlow": lambda: inner(tf.nn.sigmoid),
    "operation as activation": lambda: inner(keras.ops.softmax),
    "layer as activation": lambda: inner(keras.layers.Softmax()),
    "layer": after(keras.layers.Softmax()),
    "activation layer": after(keras.layers.Activation("softmax")),
    "sigmoid layer": after(keras.layers.Activation("sigmoid")),
    "operation": after(keras.ops.softmax),
    "sigmoid operation": after(keras.ops.sigmoid),
    "function": after(keras.activations.softmax),
    "float32 after it": after(
        lambda x: keras.layers.Activation("linear", dtype="float32")(keras.layers.Softmax()(x))
    ),
    "cast after it": after(lambda x: keras.ops.cast(keras.ops.softmax(x), "float16")),
    "reshaped": after(lambda x: keras.layers.Reshape((5,))(
        keras.ops.expand_dims(keras.layers.Identity()(keras.ops.softmax(x)), -1)
    )),
    "dropout": after(lambda x: keras.layers.Dropout(0.1)(keras.ops.softmax(x))),
    "in an inner model": lambda: sequential(inner()),
    "layer in an inner model": lambda: sequential(keras.layers.Rescaling(2.0), inner(kind="layer")),
    "two models deep": lambda: sequential(sequential(inner(kind="layer"))),
    "before an inner model": lambda: sequential(
        inner(kind="layer"), keras.Sequential([keras.Input((5,)), keras.layers.Identity()])
    ),
    "cast after an inner model": after(
        lambda x: keras.ops.cast(
            keras.Sequential([keras.Input((5,)), keras.layers.Softmax()])(x), "float32"
        )
    ),
}


@pytest.mark.parametrize("build", ENDINGS.values(), ids=ENDINGS)
def test_what_makes_probabilities_is_found_and_taken_off(build):
    model = build()
    probabilities = np.asarray(model(IMAGES), "float64")
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    weights = {id(weight) for weight in model.weights}
    assert nets.gives_probabilities(model)
    logits = nets.without_softmax(model)
    assert not nets.gives_probabilities(logits)
    kernel, bias = (np.float64(weight.numpy()) for weight in logits.weights)
    factor = 2.0 if any(layer.name.startswith("rescaling") for layer in logits.layers) else 1.0
    expected = factor * IMAGES.reshape(6, -1) @ kernel + bias
    np.testing.assert_allclose(logits(IMAGES), expected, rtol=1e-2, atol=2e-3)
    assert {id(weight) for weight in logits.weights} == weights
    assert logits.name == model.name


def test_logits_stay_as_they_are():
    models = [
        inner("linear"), sequential(inner(None)), nets.build("VGG_student", (16, 16, 3), 5),
        after(keras.ops.log_softmax)(), after(keras.activations.relu)(), after(lambda x: x / 2)(),
    ]
    for model in models:
        assert not nets.gives_probabilities(model)
        assert nets.without_softmax(model) is model


def test_of_several_outputs_the_first_counts():
    start = image()
    logits = scores(start)
    softmax = keras.layers.Softmax()(logits)
    assert not nets.gives_probabilities(keras.Model(start, [logits, softmax]))
    first, second = nets.without_softmax(keras.Model(start, [softmax, keras.ops.exp(softmax)]))(
        IMAGES
    )
    np.testing.assert_allclose(second, np.exp(first), rtol=1e-5)
    assert (np.asarray(first) < 0).any()


UNRESOLVED = {
    "by hand": lambda x: keras.ops.exp(x) / keras.ops.sum(keras.ops.exp(x), -1, keepdims=True),
    "a mean": lambda x: keras.layers.Average()(
        [keras.ops.softmax(x), keras.ops.softmax(2 * x)]
    ),
    "a mean over positions": lambda x: keras.layers.GlobalAveragePooling2D()(
        keras.layers.Conv2D(5, 1, activation="sigmoid")(keras.layers.Reshape((1, 1, 5))(x))
    ),
    "a function of one's own": lambda x: keras.layers.Dense(
        5, activation=lambda logits: keras.ops.softmax(0.1 * logits)
    )(x),
    "code": lambda x: keras.layers.Lambda(tf.nn.softmax)(x),
    "clipped": lambda x: keras.ops.clip(keras.ops.softmax(x), 1e-7, 1.0),
}


@pytest.mark.parametrize("make", UNRESOLVED.values(), ids=UNRESOLVED)
def test_probabilities_made_in_another_way_are_seen_by_their_numbers_and_refused(make):
    model = after(lambda x: make(0.1 * x))()
    assert nets.gives_probabilities(model)
    with pytest.raises(UserError, match="gives probabilities, made by its layer"):
        nets.without_softmax(model)


def test_a_softmax_that_serves_several_times_is_refused():
    start, softmax = image(), keras.layers.Softmax()
    model = keras.Model(start, softmax(softmax(scores(start))))
    with pytest.raises(UserError, match="several times"):
        nets.without_softmax(model)


def test_a_model_of_any_image_size():
    start = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(start)
    by_hand = UNRESOLVED["by hand"](keras.layers.Dense(4)(0.01 * pooled))
    assert nets.gives_probabilities(keras.Model(start, by_hand))
    assert not nets.gives_probabilities(keras.Model(start, pooled))
