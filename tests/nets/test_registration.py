"""Networks by name: what all of them must do, and errors for people."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import nets
from nets import registration
from nets.copying import global_policy
from registry import UserError

FAMILIES = [
    "VGG_teacher",
    "VGG_student",
    "VGG_stride_student",
    "MobileNet_teacher",
    "MobileNet_student",
    "ResNeXt_teacher",
    "ResNeXt_student",
    "ResNet_teacher",
    "ResNet_student",
]
# Small enough to be quick; the families' own tests build the paper's sizes.
SMALL = {
    "MobileNet": {"width": 8, "first": 8},
    "ResNeXt": {"paths": 1},
    "ResNet": {"depth": 8, "width": 8},
    "VGG": {},
}


def small(name, input_shape=(16, 16, 3), classes=5):
    return nets.build(name, input_shape, classes, **SMALL[name.split("_")[0]])


@pytest.fixture
def mixed_precision():
    with global_policy("mixed_bfloat16"):
        yield


@pytest.fixture
def double_precision():
    with global_policy("float64"):
        yield


def test_names_and_pairs():
    assert set(FAMILIES) <= set(nets.names())
    assert nets.pair("VGG") == ("VGG_teacher", "VGG_student")
    assert nets.pair("vgg-stride") == ("VGG_teacher", "VGG_stride_student")
    assert nets.pair("MobileNet") == ("MobileNet_teacher", "MobileNet_student")
    assert nets.pair("resnext") == ("ResNeXt_teacher", "ResNeXt_student")
    assert nets.pair("ResNet") == ("ResNet_teacher", "ResNet_student")
    assert {"VGG", "VGG_stride", "MobileNet", "ResNeXt", "ResNet"} <= set(nets.pairs())


def test_unknown_names_are_told_the_nearest():
    with pytest.raises(UserError, match="did you mean 'MobileNet_student'"):
        nets.build("mobilnet_student")
    with pytest.raises(UserError, match="did you mean 'VGG_stride'"):
        nets.pair("vgg_strid")
    with pytest.raises(UserError, match="no option 'widht'.*did you mean 'width'"):
        nets.build("MobileNet_student", widht=64)
    with pytest.raises(UserError, match="no option 'image'"):
        nets.build("MobileNet_student", image=64)


@pytest.mark.parametrize(
    "input_shape", [(32, 32), (32, 32, 0), (32, None, 3), 32, "32x32x3", (32.5, 32, 3)]
)
def test_bad_input_shapes_are_refused(input_shape):
    with pytest.raises(UserError, match="height, width, channels"):
        nets.build("VGG_student", input_shape)


@pytest.mark.parametrize("classes", [0, -1, 2.5, "ten", None, True])
def test_bad_numbers_of_classes_are_refused(classes):
    with pytest.raises(UserError, match="classes"):
        nets.build("VGG_student", classes=classes)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (5, 7)])
def test_any_channels_and_classes(name, channels, classes):
    model = small(name, (17, 16, channels), classes)
    assert model.name == name
    assert model.output_shape == (None, classes)
    assert np.isfinite(model(np.ones((2, 17, 16, channels), "float32"))).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_mixed_precision_gives_float32_logits_and_embedding(name, mixed_precision):
    model = small(name)
    features = nets.feature_extractor(model, nets.outputs_of(model))(
        np.ones((2, 16, 16, 3), "float32")
    )
    assert model.layers[-1].name == "logits"
    assert features["logits"].dtype == features["embedding"].dtype == tf.float32
    assert {tap.dtype for tap in features["maps"]} == {tf.bfloat16}


def test_float64_stays_float64(double_precision):
    model = small("MobileNet_student")
    features = nets.feature_extractor(model, nets.outputs_of(model))(np.ones((2, 16, 16, 3)))
    assert {tensor.dtype for tensor in tf.nest.flatten(features)} == {tf.float64}


@pytest.mark.parametrize("name", ["VGG_student", "MobileNet_student", "ResNeXt_student"])
def test_weights_follow_the_global_seed_alone(name):
    def weights(seed):
        keras.utils.set_random_seed(seed)
        return [weight.numpy() for weight in small(name).weights]

    first, again, other = weights(1), weights(1), weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    kernels = [i for i, weight in enumerate(first) if weight.ndim > 1]
    assert not any(np.array_equal(first[i], other[i]) for i in kernels)


def test_no_two_kernels_of_one_shape_begin_equal():
    kernels = [w.numpy() for w in nets.build("VGG_teacher").weights if w.shape == (3, 3, 512, 512)]
    assert len(kernels) == 2 and not np.array_equal(*kernels)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_is_found_again(name, tmp_path):
    model = small(name)
    path = tmp_path / "student.keras"
    model.save(path)
    loaded = keras.models.load_model(path, safe_mode=True)
    outputs = nets.outputs_of(loaded)
    assert outputs == nets.outputs_of(model)
    image = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    before = nets.feature_extractor(model, outputs)(image)
    after = nets.feature_extractor(loaded, outputs)(image)
    for a, b in zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=True):
        # As Keras loads it, batch normalisation is not by the fused kernel.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_taps_alone_train_all_that_leads_to_the_embedding(name):
    model = small(name)
    outputs = nets.outputs_of(model)
    extractor = nets.feature_extractor(model, outputs)
    image = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    with tf.GradientTape(persistent=True) as tape:
        features = extractor(image, training=True)
        distillation = tf.add_n([tf.reduce_sum(tap**2) for tap in features["maps"]])
        embedding = tf.reduce_sum(features["embedding"] ** 2)
    variables = model.trainable_variables
    by_taps = tape.gradient(distillation, variables)
    by_embedding = tape.gradient(embedding, variables)
    leading = [i for i, gradient in enumerate(by_embedding) if gradient is not None]
    assert leading and all(by_taps[i] is not None for i in leading)
    # Up to the classifier nothing is left out.
    rest = {variables[i].path.split("/")[-2] for i in range(len(variables)) if i not in leading}
    assert rest <= {"fc1", "fc2", "logits"}


def test_a_network_cannot_be_registered_twice():
    with pytest.raises(ValueError, match="already"):
        nets.register("vgg_TEACHER", taps=["a"], embedding="a")(lambda image, classes: image)


def test_batch_norm_is_synchronised_under_several_replicas_only(monkeypatch):
    class TwoReplicas:
        num_replicas_in_sync = 2

    from nets import layers

    assert not layers.batch_normalization("one").synchronized
    monkeypatch.setattr(tf.distribute, "get_strategy", TwoReplicas)
    assert layers.batch_normalization("two").synchronized


def test_options_are_numbers_each_given_once():
    assert nets.parse_options(["width=64", "dropout=1E-1"]) == {"width": 64, "dropout": 0.1}
    with pytest.raises(UserError, match="'width' is given twice"):
        nets.parse_options(["width=64", "width=32"])


@pytest.mark.parametrize("name", ["classes", "input_shape", "name"])
def test_what_the_data_decide_is_no_option(name):
    with pytest.raises(UserError, match=f"option '{name}' cannot be set: .*--image_size"):
        nets.parse_options([f"{name}=96"])


def test_a_layer_that_a_network_is_registered_with_has_to_be_there():
    """Misspelled, it would be taken for a network that declares nothing."""
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, name="stage1")(image)
    logits = keras.layers.Dense(2, name="logits")(keras.layers.Flatten(name="flat")(maps))
    model = keras.Model(image, logits, name="Mine")
    registration._check_layers(model, registration.Outputs(("stage1",), "flat", "logits"))
    with pytest.raises(ValueError, match="network Mine is registered with the layer 'stage2'"):
        registration._check_layers(model, registration.Outputs(("stage2",), "flat", "logits"))
