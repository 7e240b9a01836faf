"""The run that trains a copy in whole numbers, with methods that compare layers."""

import keras
import numpy as np
import pytest

import nets
from registry import UserError
from settings.distillation import Settings
from settings.quantizing import check_quantization, quantized_setup
from settings.run_setup import compile_for, prepare

CLASSES = 4


def network(name, width):
    """Maps of 8x8 in a model within it, and of 4x4 after batch normalisation."""
    within = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(width, 3, padding="same", activation="relu", name="conv")(within)
    inner = keras.Model(within, maps, name="inner")
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(width, 3, 2, "same", name="folded")(inner(image))
    maps = keras.layers.BatchNormalization(name="norm")(maps)
    maps = keras.layers.ReLU(name="last")(maps)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(image, keras.layers.Dense(CLASSES)(pooled), name=name)


@pytest.fixture
def settings_of(tmp_path):
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (24, 8, 8, 3), np.uint8), np.arange(24) % CLASSES
    np.savez(
        tmp_path / "data.npz", x_train=images, y_train=labels, x_test=images, y_test=labels,
    )
    network("of_teacher", 6).save(tmp_path / "teacher.keras")
    network("of_student", 4).save(tmp_path / "student.keras")

    def make(**changed):
        return Settings(**{
            "Distillation": "Soft_logits", "dataset": f"npz:{tmp_path}/data.npz", "epochs": 1,
            "teacher_model": f"{tmp_path}/teacher.keras", "recipe": "paper", "batch_size": 8,
            "student_model": f"{tmp_path}/student.keras", "validation_fraction": 0.0,
            "teacher_taps": ("inner/conv", "norm"), "student_taps": ("inner/conv", "norm"),
            "quantize": "int8", "quantize_distillation": "AT", "crop_padding": 2, **changed,
        }).spelled()

    return make


@pytest.mark.parametrize("method", ["Soft_logits", "None"])
def test_a_copy_learns_from_the_maps_of_the_given_taps(settings_of, tmp_path, method):
    setup = prepare(settings_of(Distillation=method))
    check_quantization(setup)
    copy = quantized_setup(setup, tmp_path / "quantized")
    # Without a teacher the student is its own, with its own taps.
    name = "of_teacher" if method == "Soft_logits" else "of_student"
    assert copy.distiller.teacher.name == name
    images = setup.data.train.images(range(8))
    theirs = copy.distiller.teacher_features(images)["maps"]
    inner, folded = copy.distiller.student_features(images)["maps"]
    assert theirs[0].shape[-1] == (6 if method == "Soft_logits" else 4)
    # What the student's layers give, but for the rounding.
    student = setup.distiller.student
    taps = nets.feature_extractor(student, nets.outputs_of(student, ["inner/conv", "norm"]))
    expected = taps(setup.student_preprocessing()(images))["maps"]
    for ours, own in zip((inner, folded), expected, strict=True):
        np.testing.assert_allclose(ours, own, atol=0.05 * np.abs(own).max())


def test_a_copy_takes_the_images_that_its_student_takes(settings_of, tmp_path):
    """0..255, as the student's first operations tell; those of the copy are behind a rounding."""
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, activation="relu")(image * (1 / 127.5) - 1.0)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    keras.Model(image, keras.layers.Dense(CLASSES)(pooled)).save(tmp_path / "raw.keras")
    settings = settings_of(
        student_model=str(tmp_path / "raw.keras"), teacher_taps=None, student_taps=None,
        quantize_distillation="Soft_logits",
    )
    setup = prepare(settings)
    copy = quantized_setup(setup, tmp_path / "quantized")
    for each in (setup, copy):
        assert each.student_preprocessing().deviation == (1.0,) * 3
    images = setup.data.train.images(range(8))
    ours, theirs = (each.distiller.student_features(images)["logits"] for each in (copy, setup))
    np.testing.assert_allclose(ours, theirs, atol=0.05 * np.abs(theirs).max())


def test_pretrained_networks_can_be_quantised_with_their_preprocessing(settings_of, tmp_path):
    random, labels = np.random.default_rng(0), np.arange(16) % CLASSES
    images = random.integers(0, 256, (16, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "large.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    file = tmp_path / "own.weights.h5"
    keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=7).save_weights(file)
    setup = prepare(settings_of(
        dataset=f"npz:{tmp_path}/large.npz", student_model="keras.applications:MobileNetV2",
        student_weights=str(file), student_options=("alpha=0.35",), teacher_taps=None,
        student_taps=None, quantize_distillation="Soft_logits", teacher_model=None,
        Distillation="None",
    ))
    assert isinstance(setup.distiller.student.layers[1], keras.layers.Rescaling)
    check_quantization(setup)


def test_a_method_that_does_not_fit_is_refused_before_training(settings_of):
    changed = {"teacher_taps": None, "student_taps": None}
    with pytest.raises(UserError, match="--teacher_taps a,b,c and --student_taps a,b,c"):
        check_quantization(prepare(settings_of(**changed)))
    unequal = {"teacher_taps": ("norm",), "student_taps": ("inner/conv", "norm")}
    with pytest.raises(UserError, match="the teacher has 1, the student 2"):
        check_quantization(prepare(settings_of(**unequal)))
    check_quantization(prepare(settings_of(**changed, quantize_distillation="Soft_logits")))


def test_too_few_epochs_for_its_stages_are_refused_before_training(settings_of):
    with pytest.raises(UserError, match="1 epochs, but the method has 2 stages"):
        check_quantization(prepare(settings_of(quantize_distillation="AB")))


@pytest.mark.parametrize("method", ["CAT_KD", "WKD_L", "None(head_share=0.5)"])
def test_the_classifier_of_the_copy_is_found(settings_of, method):
    check_quantization(prepare(settings_of(
        quantize_distillation=method, quantize_epochs=2, teacher_taps=("last",),
        student_taps=("last",),
    )))


def test_a_copy_is_trained_by_adam_at_its_own_rate(settings_of, tmp_path):
    setup = prepare(settings_of(
        optimizer="sgd", learning_rate=0.05, schedule="constant", quantize_learning_rate=3e-3,
        quantize_epochs=3,
    ))
    copy = quantized_setup(setup, tmp_path / "quantized")
    compile_for(copy, copy.settings.epochs)
    assert copy.settings.epochs == 3
    assert isinstance(copy.distiller.optimizer, keras.optimizers.Adam)
    np.testing.assert_allclose(float(copy.distiller.optimizer.learning_rate), 3e-3, rtol=1e-6)
