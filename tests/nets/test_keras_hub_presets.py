"""Networks of KerasHub from folders of presets that the tests make."""

import importlib.util
import json
import shutil
import socket

import keras
import numpy as np
import pytest

import nets
from registry import UserError

SIZE = (16, 16, 3)
IMAGES = np.random.default_rng(0).uniform(0, 255, (3, *SIZE)).astype("float32")


def test_without_the_package_the_refusal_says_how_to_install_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "keras_hub" else find(name)
    )
    with pytest.raises(UserError, match=r'needs the package keras-hub.*pip install "keras-hub==0'):
        nets.load_library_network("keras_hub:anything", None, SIZE, 7)


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("keras_hub")


@pytest.fixture(scope="module")
def presets(hub, tmp_path_factory):
    """Folders: a ViT with a classifier of 7 classes, a ResNet and a DINOv2 without, a BERT."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("presets")
    vit = hub.models.ViTBackbone(
        image_shape=SIZE, patch_size=4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16
    )
    converter = hub.layers.ViTImageConverter(
        image_size=SIZE[:2], scale=1 / 127.5, offset=[-1.0, -0.9, -0.8]
    )
    hub.models.ViTImageClassifier(
        backbone=vit, num_classes=7, activation="softmax",
        preprocessor=hub.models.ViTImageClassifierPreprocessor(image_converter=converter),
    ).save_to_preset(folder / "vit")
    hub.models.ResNetBackbone(
        input_conv_filters=[64], input_conv_kernel_sizes=[3], stackwise_num_filters=[64, 16],
        stackwise_num_blocks=[1, 1], stackwise_num_strides=[1, 2], block_type="basic_block",
    ).save_to_preset(folder / "resnet")
    hub.models.DINOV2Backbone(
        patch_size=4, num_layers=2, hidden_dim=8, num_heads=2, intermediate_dim=16,
        num_register_tokens=4, image_shape=SIZE, position_embedding_shape=SIZE,
    ).save_to_preset(folder / "dino")
    hub.models.BertBackbone(
        vocabulary_size=10, num_layers=1, num_heads=1, hidden_dim=4, intermediate_dim=4,
        max_sequence_length=8,
    ).save_to_preset(folder / "bert")
    return folder


def load(folder, classes=7, **given):
    return nets.load_library_network(f"keras_hub:{folder}", None, SIZE, classes, **given)


def test_a_classifier_gives_what_keras_hub_gives_for_the_same_raw_images(hub, presets):
    stored = load(presets / "vit")
    assert stored.has_logits and stored.standardize is None
    task = hub.models.ImageClassifier.from_preset(str(presets / "vit"))
    wanted = task(task.preprocessor(IMAGES))
    found = keras.ops.softmax(stored.model(IMAGES))  # ours gives logits
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert not nets.gives_probabilities(stored.model)
    np.testing.assert_array_equal(nets.infer_preprocessing(stored.model)(IMAGES), IMAGES)


@pytest.mark.parametrize("name", ["vit", "resnet", "dino"])
def test_backbones_and_other_classes_get_a_new_classifier(name, presets):
    stored = load(presets / name, classes=5)
    assert not stored.has_logits and stored.model.output_shape == (None, 5)
    found = nets.find_classifier(stored.model)
    assert len(found.features.shape) == 2


def test_blocks_are_taps_and_class_and_register_tokens_are_dropped(presets):
    for name, encoder, depth, dropped in (
        ("vit", "backbone/vit_encoder", 3, 1),
        ("dino", "backbone/backbone_encoder", 2, 5),
    ):
        model = load(presets / name, classes=5).model
        taps = [f"{encoder}/{number}" for number in range(depth)]
        features = nets.feature_extractor(model, nets.outputs_of(model, taps))(IMAGES)
        assert [tuple(each.shape) for each in features["maps"]] == [(3, 4, 4, 8)] * depth
        np.testing.assert_allclose(features["logits"], model(IMAGES), rtol=1e-4, atol=1e-5)
        tokens = keras.Model(model.input, nets.find_classifier(model).features)
        assert tokens.output_shape == (None, 8)
        listed = {each.name: each.shape for each in nets.list_layers(model)}
        assert [listed[tap] for tap in taps] == [(16 + dropped, 8)] * depth, listed


def test_they_are_saved_loaded_and_copied(presets, tmp_path):
    for name in ("vit", "resnet"):
        model = load(presets / name, classes=5).model
        model.save(tmp_path / "model.keras")
        wanted = model(IMAGES)
        for each in (nets.load(tmp_path / "model.keras").model, nets.copy_model(model)):
            np.testing.assert_allclose(each(IMAGES), wanted, rtol=1e-4, atol=1e-5)


def test_what_is_no_preset_of_an_image_model_is_refused(hub, presets, tmp_path):
    with pytest.raises(UserError, match="is a BertBackbone, which is not a model of images"):
        load(presets / "bert")
    with pytest.raises(UserError, match="holds no config.json; expected a folder that save_to"):
        load(tmp_path)
    with pytest.raises(UserError, match="no preset of this name .did you mean 'resnet_50_imagenet"):
        load("resnet_50_imagenett")
    with pytest.raises(UserError, match="there is no folder ./nowhere/vit"):
        load("./nowhere/vit")
    with pytest.raises(UserError, match="takes no options, not alpha"):
        load(presets / "vit", options={"alpha": 1})
    (tmp_path / "config.json").write_text(json.dumps({"registered_name": "nobody>Knows"}))
    with pytest.raises(UserError, match="is damaged or not a preset of an image model"):
        load(tmp_path)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Without a network, and with an empty cache of downloads, which is given."""
    def unreachable(*_, **__):
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path))
    return tmp_path


def test_without_a_network_what_was_downloaded_before_is_read(hub, presets, offline, caplog):
    place = hub.models.Backbone.presets["vit_base_patch16_224_imagenet"]["kaggle_handle"]
    shutil.copytree(presets / "vit", offline / "models" / place.partition("://")[2])
    loaded, expected = load("vit_base_patch16_224_imagenet"), load(presets / "vit")
    np.testing.assert_array_equal(loaded.model(IMAGES), expected.model(IMAGES))
    assert loaded.model.name == "vit_base_patch16_224_imagenet"
    assert "no network; it is read from" in caplog.text


def test_without_a_network_a_known_preset_is_refused_in_one_line(hub, offline):
    for preset in ("vit_base_patch16_224_imagenet", "hf://nobody/nothing"):
        with pytest.raises(UserError, match=f"the preset keras_hub:{preset} cannot be down") as e:
            load(preset)
        assert "\n" not in str(e.value)
