"""Networks that settings name, as they come from their files."""

import dataclasses
import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import nets
from settings.distillation import Settings
from settings.networks import load_teacher, load_to_train, make_student

DATA = SimpleNamespace(image_shape=(8, 8, 3), classes=5)


def test_a_network_of_float16_is_trained_in_the_precision_of_the_run(tmp_path, caplog):
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, activation="relu", dtype="mixed_float16")(image)
    scores = keras.layers.Dense(5, dtype="float32")(keras.layers.Flatten(dtype="float32")(maps))
    model = keras.Model(image, scores)
    model.save(tmp_path / "half.keras")
    loaded = load_to_train(str(tmp_path / "half.keras")).model
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    (record,) = caplog.records
    assert record.getMessage().endswith("it is trained in float32")
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(loaded(images), model(images), rtol=0.02, atol=0.02)


@pytest.fixture
def run(tmp_path):
    """``tte:RUN`` and its encoder, whose weights no new network has."""
    keras.utils.set_random_seed(3)
    model = nets.build("MobileNet_student", DATA.image_shape, 1, width=4, first=4)
    for variable in model.variables:
        variable.assign(variable + 0.25)
    encoder = nets.encoder_of(model, nets.Standardize((0.0,) * 3, (1.0,) * 3))
    keras.Model(encoder.model.inputs[0], encoder.model.output["embedding"], name=encoder.name).save(
        tmp_path / "encoder.keras"
    )
    stated = {"mean": [0.0] * 3, "deviation": [1.0] * 3, "size": [8, 8]}
    facts = {"options": ["width=4", "first=4"], "preprocessing": stated}
    (tmp_path / "summary.json").write_text(json.dumps(facts))
    return f"tte:{tmp_path}", encoder


def assert_same_map(model, encoder):
    images = np.random.default_rng(0).normal(size=(3, *DATA.image_shape)).astype("float32")
    own = nets.encoder_of(model, encoder.standardize).model
    np.testing.assert_allclose(
        own(images)["features"], encoder.model(images)["features"], rtol=1e-5, atol=1e-6
    )


def test_student_init_fills_the_student(run):
    text, encoder = run
    settings = Settings(
        Distillation="None", net="MobileNet", student_options=("width=4", "first=4"),
        student_init=text,
    )
    student = make_student(settings, DATA)
    assert_same_map(student.model, encoder)
    assert student.standardize == encoder.standardize


def test_a_pretrained_encoder_is_the_teacher_without_logits(run):
    text, encoder = run
    stored = load_teacher(Settings(Distillation="AT", teacher=text), DATA, text)
    assert not stored.has_logits and stored.model.output_shape == (None, DATA.classes)
    assert_same_map(stored.model, encoder)


@pytest.mark.parametrize("make", [
    make_student, lambda settings, data: load_teacher(settings, data, None),
])
def test_the_seed_decides_the_weights_of_networks_to_be_trained(make):
    settings = Settings(
        net="MobileNet", teacher_options=("width=4", "first=4"),
        student_options=("width=4", "first=4"),
    )
    first, again, other = (
        make(dataclasses.replace(settings, seed=seed), DATA).model.get_weights()
        for seed in (1, 1, 2)
    )
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))
