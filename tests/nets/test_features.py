"""Taps, embedding and logits of registered and of foreign models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from registry import UserError
from tests.read_by_keras import read_by_keras

IMAGE = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")


def backbone(name="backbone"):
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="shallow")(image)
    maps = keras.layers.BatchNormalization(name="norm")(maps)
    maps = keras.layers.Conv2D(6, 3, strides=2, activation="relu", name="deep")(maps)
    return keras.Model(image, maps, name=name)


def foreign():
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, name="shallow")(image)
    deep = keras.layers.Conv2D(6, 3, name="deep")(maps)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(deep)
    return keras.Model(image, keras.layers.Dense(5, name="scores")(pooled), name="foreign")


def nested(inner):
    image = keras.Input((8, 8, 3))
    maps = inner(keras.layers.Rescaling(0.5, name="scale")(image))
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(maps)
    return keras.Model(image, keras.layers.Dense(5, name="scores")(pooled), name="nested")


def test_registered_network_declares_its_outputs():
    model = nets.build("VGG_student")
    outputs = nets.outputs_of(model)
    assert outputs == nets.Outputs(("pool1", "pool2", "pool3", "pool4"), "pool4", "logits")
    with pytest.raises(AttributeError):
        outputs.logits = "fc1"


@pytest.mark.parametrize("name", nets.names())
def test_a_model_of_ones_own_with_a_registered_name_is_none(name):
    built = nets.build(name)
    assert nets.declared_outputs_of(built) == nets.declared_outputs(name)
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, name="maps")(keras.layers.Rescaling(1 / 255)(image))
    scores = keras.layers.Dense(5, name="scores")(keras.layers.GlobalAveragePooling2D()(maps))
    own = keras.Model(image, scores, name=name.lower().replace("_", "-"))
    assert nets.declared_outputs(own.name) == nets.declared_outputs(name)  # by its name alone
    assert nets.declared_outputs_of(own) is None
    assert nets.outputs_of(own, ["maps"]) == nets.Outputs(("maps",), "maps", "scores")
    with pytest.raises(UserError, match="is not a network of --net, so its taps must be named"):
        nets.outputs_of(own)
    assert nets.infer_preprocessing(own).deviation == (1.0,) * 3


def test_arguments_override_what_is_declared():
    model = nets.build("VGG_student")
    five = nets.outputs_of(model, taps=["pool1", "pool2", "pool3", "pool4", "fc1"])
    assert five.taps[-1] == "fc1" and five.embedding == "pool4"
    two = nets.outputs_of(model, taps=["pool1", "pool2"])
    assert two.embedding == "pool2"  # what the taps do not train is no embedding
    assert nets.outputs_of(model, embedding="fc1").embedding == "fc1"
    features = nets.feature_extractor(model, five)(np.zeros((2, 32, 32, 3), "float32"))
    assert features["maps"][-1].shape == (2, 1024)


def test_extractor_shares_the_layers_and_gives_their_outputs():
    model = nets.build("MobileNet_student", (16, 16, 3), 5, width=4, first=4)
    outputs = nets.outputs_of(model)
    extractor = nets.feature_extractor(model, outputs)
    assert {id(weight) for weight in extractor.weights} == {id(w) for w in model.weights}
    image = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype("float32")
    features = extractor(image)
    np.testing.assert_array_equal(features["logits"], model(image))
    np.testing.assert_allclose(
        features["embedding"], np.mean(features["maps"][-1], axis=(1, 2)), rtol=1e-6
    )
    assert features["embedding"].shape == (3, 32)
    model.get_layer("logits").bias.assign_add([1.0] * 5)
    np.testing.assert_array_equal(extractor(image)["logits"], model(image))


def test_foreign_model():
    model = foreign()
    outputs = nets.outputs_of(model, taps=["shallow", "deep"])
    assert outputs == nets.Outputs(("shallow", "deep"), "deep", "scores")
    features = nets.feature_extractor(model, outputs)(IMAGE)
    shallow = model.get_layer("shallow")(IMAGE)
    np.testing.assert_allclose(features["maps"][0], shallow, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features["logits"], model(IMAGE), rtol=1e-5, atol=1e-6)


def test_model_that_keras_itself_read_in_a_new_process(tmp_path):
    """Its own average is named as the one that is added."""
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, name="shallow")(image)
    pooled = keras.ops.mean(keras.ops.cast(maps, "float32"), axis=(1, 2))
    scores = keras.layers.Dense(5, name="scores")(pooled)
    model = read_by_keras(keras.Model(image, scores, name="averaged"), tmp_path)
    extractor = nets.feature_extractor(model, nets.outputs_of(model, ["shallow"]))
    expected = np.mean(extractor(IMAGE)["maps"][0], axis=(1, 2))
    np.testing.assert_allclose(extractor(IMAGE)["embedding"], expected, rtol=1e-5)
    np.testing.assert_allclose(extractor(IMAGE)["logits"], model(IMAGE), rtol=1e-5)


def test_foreign_model_needs_named_taps():
    with pytest.raises(UserError, match="not a network of --net.*taps must be named"):
        nets.outputs_of(foreign())
    with pytest.raises(UserError, match="must be a sequence"):
        nets.outputs_of(foreign(), taps="shallow")
    with pytest.raises(UserError, match="must be a sequence"):
        nets.outputs_of(foreign(), taps=[])


def test_channels_first_is_refused_by_the_layers_name():
    image = keras.Input((3, 8, 8))
    maps = keras.layers.Conv2D(4, 3, data_format="channels_first", name="first")(image)
    maps = keras.layers.Permute((2, 3, 1), name="last")(maps)
    logits = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(maps))
    model = keras.Model(image, logits)
    with pytest.raises(UserError, match="layer 'first' .*data_format='channels_first'"):
        nets.feature_extractor(model, nets.outputs_of(model, taps=("last",)))


def test_taps_from_deep_to_shallow_are_refused():
    model = foreign()
    with pytest.raises(UserError, match="'deep' comes after 'shallow' in it"):
        nets.outputs_of(model, ["deep", "shallow"])
    nets.outputs_of(model, ["shallow", "deep", "deep"])
    inner = nested(backbone())
    with pytest.raises(UserError, match="'pooled' comes after 'backbone' in it"):
        nets.outputs_of(inner, ["pooled", "backbone"])
    nets.outputs_of(inner, ["backbone/shallow", "backbone/deep", "pooled"])


def test_unknown_layers_are_told_the_nearest():
    with pytest.raises(UserError, match="no layer 'shalow'.*did you mean 'shallow'.*list_layers"):
        nets.outputs_of(foreign(), taps=["shalow"])
    with pytest.raises(UserError, match="no layer 'score'.*did you mean 'scores'"):
        nets.outputs_of(foreign(), taps=["deep"], logits="score")


def test_sequential_model():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, name="maps"),
            keras.layers.Flatten(),
            keras.layers.Dense(5, name="scores"),
        ]
    )
    outputs = nets.outputs_of(model, taps=["maps"])
    assert outputs.logits == "scores"
    features = nets.feature_extractor(model, outputs)(IMAGE)
    np.testing.assert_allclose(features["logits"], model(IMAGE), rtol=1e-5, atol=1e-6)


def test_sequential_model_within_a_model():
    layers = [keras.layers.Conv2D(4, 3, name="maps"), keras.layers.ReLU(name="positive")]
    inner = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="inner")
    model = nested(inner)
    # Of the sequential model itself, after its call in another.
    alone = nets.feature_extractor(inner, nets.outputs_of(inner, taps=["maps"]))(IMAGE)
    np.testing.assert_allclose(alone["maps"][0], layers[0](IMAGE), rtol=1e-5, atol=1e-6)
    within = nets.feature_extractor(model, nets.outputs_of(model, taps=["inner/maps"]))(IMAGE)
    np.testing.assert_allclose(
        within["maps"][0], layers[0](0.5 * IMAGE), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(within["logits"], model(IMAGE), rtol=1e-5, atol=1e-6)


def test_what_is_not_functional_is_refused():
    class Subclassed(keras.Model):
        def call(self, image):
            return image

    for model in (Subclassed(), keras.Sequential([keras.layers.Dense(3)]), "VGG_student"):
        with pytest.raises(UserError, match="functional Keras model is needed"):
            nets.outputs_of(model, taps=["dense"])


def test_multi_output_model_takes_the_first_for_logits():
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, name="maps")(image)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(maps)
    heads = [keras.layers.Dense(n, name=f"head{n}")(pooled) for n in (5, 7)]
    model = keras.Model(image, heads)
    assert nets.outputs_of(model, taps=["maps"]).logits == "head5"
    features = nets.feature_extractor(model, nets.outputs_of(model, ["maps"], logits="head7"))
    np.testing.assert_allclose(
        features(IMAGE)["logits"], model(IMAGE)[1], rtol=1e-5, atol=1e-6
    )


def test_a_layer_that_serves_two_models_gives_each_its_own():
    """`layer.output` would be the first model's, on an input of its own."""
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    other = keras.Input((8, 8, 3))
    keras.Model(other, shared(other))
    image = keras.Input((8, 8, 3))
    maps = shared(keras.layers.Rescaling(2.0)(image))
    scores = keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(maps))
    model = keras.Model(image, scores)
    outputs = nets.outputs_of(model, taps=["shared"])
    tap = nets.feature_extractor(model, outputs)(IMAGE)["maps"][0]
    np.testing.assert_allclose(tap, shared(2 * IMAGE), rtol=1e-5, atol=1e-6)


def test_models_with_losses_metrics_and_classes_of_their_own_are_opened_too():
    class Own(keras.Model):
        def __init__(self, inner):
            image = keras.Input((8, 8, 3))
            pooled = keras.layers.GlobalAveragePooling2D()(inner(image))
            super().__init__(image, keras.layers.Dense(5, name="scores")(pooled), name="own")

    model = Own(backbone())
    model.compile("sgd", "mse", metrics=["mae"])
    extractor = nets.feature_extractor(model, nets.outputs_of(model, taps=["backbone/deep"]))
    np.testing.assert_allclose(
        extractor(IMAGE)["logits"], model(IMAGE), rtol=1e-5, atol=1e-6
    )


def test_ambiguous_layers_are_refused():
    shared = keras.layers.Conv2D(3, 3, padding="same", name="twice")
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, shared(shared(image)), name="loop")
    with pytest.raises(UserError, match="'twice' is called 2 times"):
        nets.outputs_of(model, taps=["twice"])
    inner = keras.Model(image, [image + 1, image + 2], name="both")
    outer = keras.Model(image, keras.layers.Add(name="sum")(inner(image)))
    with pytest.raises(UserError, match="'both'.*gives 2 tensors"):
        nets.outputs_of(outer, taps=["both"])


def test_tap_at_a_model_within_the_model():
    inner = backbone()
    model = nested(inner)
    features = nets.feature_extractor(model, nets.outputs_of(model, taps=["backbone"]))(IMAGE)
    np.testing.assert_allclose(features["maps"][0], inner(0.5 * IMAGE), rtol=1e-5, atol=1e-6)


def test_taps_within_a_model_within_the_model():
    inner = backbone()
    model = nested(inner)
    outputs = nets.outputs_of(model, taps=["scale", "backbone/shallow", "backbone/deep"])
    assert outputs.logits == "scores"
    extractor = nets.feature_extractor(model, outputs)
    features = extractor(IMAGE)
    np.testing.assert_allclose(features["maps"][0], 0.5 * IMAGE)
    shallow = inner.get_layer("shallow")(0.5 * IMAGE)
    np.testing.assert_allclose(features["maps"][1], shallow, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features["maps"][2], inner(0.5 * IMAGE), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features["logits"], model(IMAGE), rtol=1e-5, atol=1e-6)
    assert {id(weight) for weight in extractor.weights} == {id(w) for w in model.weights}


@pytest.mark.parametrize("taps", [
    ["backbone/deep", "backbone/shallow"], ["scores", "backbone/shallow"],
    ["backbone/shallow", "scale"],
])
def test_taps_from_deep_to_shallow_within_a_model_are_refused(taps):
    with pytest.raises(UserError, match="from shallow to deep"):
        nets.outputs_of(nested(backbone()), taps=taps)


def test_an_opened_inner_model_runs_once_and_keeps_one_state():
    """One training pass moves the inner batch norm's average once, in the model itself."""
    inner = backbone()
    model = nested(inner)
    extractor = nets.feature_extractor(
        model, nets.outputs_of(model, taps=["backbone/shallow", "backbone"])
    )
    shallow = np.asarray(inner.get_layer("shallow")(0.5 * IMAGE))
    extractor(IMAGE, training=True)
    expected = 0.01 * shallow.mean(axis=(0, 1, 2))  # momentum 0.99, from 0
    np.testing.assert_allclose(inner.get_layer("norm").moving_mean, expected, rtol=1e-4)
    graph = tf.function(extractor).get_concrete_function(tf.TensorSpec((1, 8, 8, 3))).graph
    assert sum(operation.type == "Conv2D" for operation in graph.get_operations()) == 2


def test_taps_two_models_deep_and_gradients_through_them():
    inner = backbone()
    image = keras.Input((8, 8, 3))
    middle = keras.Model(image, keras.layers.ReLU(name="after")(inner(image)), name="middle")
    model = nested(middle)
    extractor = nets.feature_extractor(
        model, nets.outputs_of(model, taps=["middle/backbone/shallow", "middle/after"])
    )
    with tf.GradientTape() as tape:
        features = extractor(IMAGE)
        loss = tf.reduce_sum(features["maps"][0])
    shallow = inner.get_layer("shallow")
    np.testing.assert_allclose(
        features["maps"][0], shallow(0.5 * IMAGE), rtol=1e-5, atol=1e-6
    )
    assert tape.gradient(loss, shallow.kernel) is not None
    graph = tf.function(extractor).get_concrete_function(tf.TensorSpec((1, 8, 8, 3))).graph
    assert sum(operation.type == "Conv2D" for operation in graph.get_operations()) == 2


def test_wrong_names_within_models_are_told():
    model = nested(backbone())
    with pytest.raises(UserError, match="'backbone' has no layer 'shalow'.*'shallow'"):
        nets.outputs_of(model, taps=["backbone/shalow"])
    with pytest.raises(UserError, match="'nested' has no layer 'backbon'.*'backbone'"):
        nets.outputs_of(model, taps=["backbon/shallow"])
    with pytest.raises(UserError, match="'pooled' of model 'nested' holds no layer 'shallow'"):
        nets.outputs_of(model, taps=["pooled/shallow"])


def test_foreign_logits_are_widened():
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, dtype="mixed_bfloat16", name="maps")(image)
    flat = keras.layers.Flatten(dtype="mixed_bfloat16")(maps)
    model = keras.Model(image, keras.layers.Dense(5, dtype="mixed_bfloat16")(flat))
    features = nets.feature_extractor(model, nets.outputs_of(model, taps=["maps"]))(IMAGE)
    assert features["maps"][0].dtype == tf.bfloat16
    assert features["logits"].dtype == features["embedding"].dtype == tf.float32
