"""Networks of keras.applications with pretrained weights, here from files that the tests make."""

import socket

import keras
import numpy as np
import pytest

import nets
from nets.applications import _find_preprocessing
from registry import UserError

SIZE = (32, 32, 3)
NAME = "keras.applications:MobileNetV2"
OPTIONS = {"alpha": 0.35}
POOLING, CLASSIFIER = -2, -1  # among the layers, for Keras numbers the pooling's name
IMAGES = np.random.default_rng(0).uniform(0, 255, (3, *SIZE)).astype("float32")


def mobile_net(**given):
    model = keras.applications.MobileNetV2(
        weights=None, input_shape=SIZE, classifier_activation=None, **{**OPTIONS, **given}
    )
    random = np.random.default_rng(1)
    model.set_weights([random.uniform(0.5, 1.5, each.shape) if each.ndim == 1
                       else random.normal(0, each[..., 0].size ** -0.5, each.shape)
                       for each in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def trained():
    return mobile_net(classes=7)


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    trained.save_weights(folder / "top.weights.h5")
    trained.save(folder / "earlier.h5")  # its weights are as those that Keras hosts
    trained.save(folder / "whole.keras")
    features = keras.Model(trained.input, trained.layers[POOLING].output)
    features.save_weights(folder / "without.weights.h5")
    mobile_net(classes=7, alpha=0.5).save_weights(folder / "wider.weights.h5")
    return folder


def load(weights, classes, **given):
    given = {"input_shape": SIZE, "options": OPTIONS, **given}
    return nets.load_library_network(NAME, str(weights), classes=classes, **given)


def expected(trained, layer=CLASSIFIER):
    """What the network gives for images that are preprocessed as its documentation says."""
    images = keras.applications.mobilenet_v2.preprocess_input(IMAGES.copy())
    return keras.Model(trained.input, trained.layers[layer].output)(images)


@pytest.mark.parametrize("network", [
    "VGG16", "ResNet50", "ResNet50V2", "DenseNet121", "MobileNetV2", "Xception", "NASNetMobile",
    "EfficientNetB0", "EfficientNetV2B0", "MobileNetV3Small", "ConvNeXtTiny", "MobileNet",
])
def test_the_preprocessing_of_a_family_is_its_preprocess_input(network):
    function = getattr(keras.applications, network)
    family = getattr(keras.applications, function.__module__.rpartition(".")[2])
    images = IMAGES.astype("float64")
    found = _find_preprocessing(function)
    wanted = family.preprocess_input(images.copy())
    if found is not None:
        images = images[..., ::-1] if found.reverses else images
        images = images * found.scale + found.offset
    np.testing.assert_allclose(images, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pretrained", [False, True])
def test_layers_are_called_alike_whatever_was_made_before(pretrained, tmp_path):
    name, options = "keras.applications:MobileNetV3Small", {"alpha": 0.25, "minimalistic": True}

    def made():
        if pretrained:
            file = tmp_path / "own.weights.h5"
            return nets.load_library_network(name, str(file), SIZE, 5, options).model
        return nets.build(name, SIZE, 5, **options)

    def names(model):
        return [layer.name for layer in model.layers]

    nets.build(name, SIZE, 5, **options).save_weights(tmp_path / "own.weights.h5")
    first, second = made(), made()
    assert names(first) == names(second)
    assert {"re_lu", "re_lu_1"} <= set(names(first))  # as in a new process
    # Nothing made later has a name in them, so it can be joined to either.
    later = keras.layers.ReLU()
    assert later.name not in names(second)
    keras.Model(second.input, later(second.output))


@pytest.mark.parametrize("file", ["top.weights.h5", "earlier.h5"])
def test_weights_with_as_many_classes_are_a_trained_network_of_raw_images(file, files, trained):
    stored = load(files / file, classes=7)
    assert stored.has_logits
    np.testing.assert_allclose(stored.model(IMAGES), expected(trained), rtol=1e-3, atol=1e-3)
    preprocessing = nets.infer_preprocessing(stored.model)
    np.testing.assert_array_equal(preprocessing(IMAGES), IMAGES)


@pytest.mark.parametrize("file", ["top.weights.h5", "without.weights.h5"])
def test_other_classes_or_none_get_a_new_classifier_on_the_same_features(file, files, trained):
    stored = load(files / file, classes=5)
    assert not stored.has_logits and stored.model.output_shape == (None, 5)
    found = nets.find_classifier(stored.model)
    features = keras.Model(stored.model.input, found.features)(IMAGES)
    np.testing.assert_allclose(
        features, expected(trained, POOLING), rtol=1e-3, atol=1e-3
    )


def test_a_classifier_of_other_classes_can_be_kept(files, trained):
    stored = load(files / "top.weights.h5", classes=5, keep_classifier=True)
    assert stored.has_logits
    np.testing.assert_allclose(stored.model(IMAGES), expected(trained), rtol=1e-3, atol=1e-3)


def test_networks_of_swapped_channels_take_red_green_blue_and_can_be_copied():
    """The layers before a ResNet as `load_application` puts them, without its 50 layers."""
    from nets.applications import _preprocessed

    found = _find_preprocessing(keras.applications.ResNet50)
    image = _preprocessed(found, None, {"input_shape": SIZE})
    source = keras.utils.get_source_inputs(image)[0]
    model = keras.Model(source, keras.layers.GlobalAveragePooling2D()(image), name="resnet50")
    wanted = keras.applications.resnet.preprocess_input(IMAGES.copy()).mean((1, 2))
    for each in (model, nets.copy_model(model)):
        np.testing.assert_allclose(each(IMAGES), wanted, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(nets.infer_preprocessing(model)(IMAGES), IMAGES)


@pytest.mark.parametrize(("file", "message"), [
    ("missing.h5", "do not exist; expected imagenet or a file of weights"),
    ("whole.keras", "is not a file of weights.*--teacher_model FILE.keras"),
    ("wider.weights.h5", r"does not fit mobilenetv2.*of shape \(.*for .* of \("),
])
def test_weights_that_do_not_fit_are_refused(file, message, files):
    with pytest.raises(UserError, match=message):
        load(files / file, classes=7)


def test_weights_of_another_architecture_are_refused(files):
    with pytest.raises(UserError, match="does not fit mobilenet"):
        nets.load_library_network(
            "keras.applications:MobileNet", str(files / "without.weights.h5"), SIZE, 7,
            {"alpha": 0.25},
        )


def test_unknown_networks_and_images_of_other_channels_are_refused(files):
    with pytest.raises(UserError, match="no network 'ResNet51'.*did you mean 'ResNet50"):
        nets.load_library_network("keras.applications:ResNet51", "imagenet", SIZE, 7)
    with pytest.raises(UserError, match="images of 3 channels, not 1"):
        load(files / "top.weights.h5", classes=7, input_shape=(32, 32, 1))


def test_without_a_network_imagenet_is_refused_in_one_line(monkeypatch, tmp_path):
    def unreachable(*_, **__):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(UserError, match="ImageNet's weights of .*MobileNetV2 cannot be downl") as e:
        load("imagenet", classes=7)
    assert "\n" not in str(e.value) and "no network" in str(e.value)
    assert socket.getdefaulttimeout() is None
