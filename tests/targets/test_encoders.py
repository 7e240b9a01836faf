"""What is refused of encoders before anything is scored."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

import dataloader
import evaluate
import nets
from registry import UserError
from settings import evaluation
from targets import encoders
from targets.encoders import check_backbone
from tests.pretext.models import SHAPE, encoder


@pytest.mark.parametrize(
    ("taken", "channels", "fits"),
    [(3, 3, True), (3, 1, True), (3, 4, False), (1, 3, True), (1, 4, False)],
)
def test_a_detectors_backbone_takes_the_scenes_channels(taken, channels, fits):
    """Grey scenes can be shown in colours, and scenes in colours in grey."""
    own = encoder(shape=(*SHAPE[:2], taken))
    scenes = SimpleNamespace(name="voc", image_shape=(32, 32, channels))
    if fits:
        check_backbone(own, scenes)
    else:
        with pytest.raises(UserError, match=f"takes images of {taken} channels, and .* voc have 4"):
            check_backbone(own, scenes)


def test_batch_statistics_do_not_depend_on_the_order_of_the_classes(monkeypatch):
    """A batch of one class would hide from the second layer how far the classes are apart."""
    monkeypatch.setattr(encoders, "images_at_once", lambda shape: 20)
    labels = np.repeat(np.arange(4), 60)
    noise = np.random.default_rng(0).integers(0, 20, [240, 8, 8, 3])
    images = noise + 60 * labels[:, None, None, None]
    split = dataloader.Split.whole(dataloader.MemoryImages(images.astype(np.uint8)), labels)

    def network():
        keras.utils.set_random_seed(0)
        image = maps = keras.Input((8, 8, 3))
        for _ in range(2):
            maps = keras.layers.Conv2D(4, 1)(keras.layers.BatchNormalization()(maps))
        return nets.encoder_of(keras.Model(image, maps), nets.Standardize((0.0,) * 3, (1.0,) * 3))

    def variance(encoder):
        return np.array(encoder.model.layers[3].moving_variance)

    mixed, together = network(), network()
    encoders.with_clean_statistics(mixed, split)
    monkeypatch.setattr(encoders, "images_at_once", lambda shape: 240)
    encoders.with_clean_statistics(together, split)
    np.testing.assert_allclose(variance(mixed), variance(together), rtol=0.2)


@pytest.mark.parametrize("preprocessing", ["auto", "torch", "caffe"])
def test_networks_for_colours_take_grey_images(preprocessing, tmp_path):
    """Their file tells no preprocessing, and the data's mean is one number."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    keras.Model(image, keras.layers.Conv2D(4, 3)(image)).save(tmp_path / "net.keras")
    grey = np.random.default_rng(0).integers(0, 256, [40, 8, 8, 1]).astype(np.uint8)
    labels = np.arange(40) % 2
    np.savez(tmp_path / "grey.npz", x_train=grey, y_train=labels, x_test=grey, y_test=labels)
    settings = evaluation.Settings(
        encoder=(f"{tmp_path}/net.keras",), dataset=f"npz:{tmp_path}/grey.npz",
        targets="clustering", encoder_preprocessing=preprocessing, validation_fraction=0.0,
    ).spelled()
    opened = evaluate.open_all(settings)
    (encoder,) = opened.encoders.values()
    given = encoder(grey)["embedding"]
    shown = np.repeat(grey, 3, axis=-1).astype("float32")
    if preprocessing == "auto":
        expected = (shown - grey.mean()) / grey.std()
    else:
        family = {"torch": keras.applications.densenet, "caffe": keras.applications.vgg16}
        expected = family[preprocessing].preprocess_input(shown)
    maps = keras.models.load_model(tmp_path / "net.keras")(expected)
    np.testing.assert_allclose(given, np.mean(maps, axis=(1, 2)), rtol=1e-3, atol=1e-3)


def test_a_grey_network_is_scored_by_detection_in_colours(tmp_path):
    image = keras.Input((8, 8, 1))
    maps = keras.layers.Conv2D(4, 3, padding="same")(image)
    keras.Model(image, maps).save(tmp_path / "net.keras")
    settings = evaluation.Settings(encoder=(f"{tmp_path}/net.keras",), targets="detection")
    settings = settings.spelled()
    (encoder,) = evaluate.open_all(settings).encoders.values()
    assert encoder.image_shape[-1] == len(encoder.standardize.mean) == 1


def test_a_grey_network_with_fresh_weights_takes_its_statistics_from_grey_scenes():
    image = keras.Input((8, 8, 1))
    network = keras.Model(image, keras.layers.BatchNormalization(name="bn")(image))
    encoder = nets.encoder_of(network, nets.Standardize((0.0,), (1.0,)))
    images = np.random.default_rng(0).integers(0, 256, [20, 8, 8, 3]).astype(np.uint8)
    split = dataloader.Split.whole(dataloader.MemoryImages(images), np.full(20, -1))
    encoders.with_clean_statistics(encoder, split)
    grey = images @ [0.299, 0.587, 0.114]
    mean = encoder.model.get_layer("bn").moving_mean
    np.testing.assert_allclose(mean, [grey.mean()], rtol=5e-3)
