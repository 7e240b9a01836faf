"""Networks with the weights of a pre-trained encoder, as the folder of a run has it."""

import json

import keras
import numpy as np
import pytest

import nets

SHAPE, CLASSES = (8, 8, 3), 5
OPTIONS = {"width": 4, "first": 4}
STANDARDIZE = nets.Standardize((100.0, 90.0, 80.0), (50.0, 60.0, 70.0))


def small(seed, name="MobileNet_student", classes=1):
    keras.utils.set_random_seed(seed)
    return nets.build(name, SHAPE, classes, **OPTIONS)


def own_network():
    keras.utils.set_random_seed(3)
    image = keras.Input(SHAPE)
    maps = keras.layers.Conv2D(6, 3, activation="relu")(image)
    return keras.Model(image, keras.layers.BatchNormalization()(maps), name="own")


def pretrained(folder, model, options=()):
    """``tte:RUN`` and the encoder in the folder: none of its weights is what a new network has."""
    random = np.random.default_rng(7)
    for variable in model.variables:
        variable.assign(variable + random.uniform(0.1, 0.3, variable.shape))
    encoder = nets.encoder_of(model, STANDARDIZE)
    embedding = encoder.model.output["embedding"]
    keras.Model(encoder.model.inputs[0], embedding, name=encoder.name).save(
        folder / nets.encoders.ENCODER_FILE
    )
    summary = {
        "options": list(options),
        "preprocessing": {"mean": STANDARDIZE.mean, "deviation": STANDARDIZE.deviation},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return f"tte:{folder}", encoder


@pytest.fixture
def run(tmp_path):
    options = [f"{name}={value}" for name, value in OPTIONS.items()]
    return pretrained(tmp_path, small(3), options)


def assert_teacher_is(encoder, stored):
    assert not stored.has_logits
    assert stored.model.output_shape == (None, CLASSES)
    images = np.random.default_rng(0).integers(0, 256, (4, *SHAPE)).astype("float32")
    prepared = (images - np.array(STANDARDIZE.mean)) / np.array(STANDARDIZE.deviation)
    np.testing.assert_allclose(stored.standardize(images), prepared, rtol=1e-5)
    found = nets.encoder_of(stored.model, stored.standardize)(images)
    expected = encoder(images)
    assert np.std(expected["features"]) > 0
    for part in ("features", "embedding"):
        np.testing.assert_allclose(found[part], expected[part], rtol=1e-5, atol=1e-6)


def test_a_teacher_has_the_last_map_of_the_encoder_and_a_new_classifier(run):
    text, encoder = run
    stored = nets.load_pretrained(text, SHAPE, CLASSES)
    assert stored.model.name == "MobileNet_student"
    assert_teacher_is(encoder, stored)


def test_a_teacher_from_an_own_network_has_its_last_map_too(tmp_path):
    text, encoder = pretrained(tmp_path, own_network())
    assert_teacher_is(encoder, nets.load_pretrained(text, SHAPE, CLASSES))


def test_a_student_gets_the_weights_of_the_encoder_layer_by_layer(run):
    text, encoder = run
    student = small(1, classes=CLASSES)
    before = {layer.name: layer.get_weights() for layer in student.layers}
    nets.fill_from_encoder(student, text)
    encoded = {layer.name: layer.get_weights() for layer in encoder.model.layers}
    assert sum(map(len, encoded.values())) == len(encoder.model.weights) > 0
    for layer in student.layers:
        own, first = layer.get_weights(), before[layer.name]
        is_new = layer.name not in encoded
        for weight, expected in zip(own, first if is_new else encoded[layer.name], strict=True):
            np.testing.assert_array_equal(weight, expected)
        assert is_new or not own or not any(map(np.array_equal, own, first))
