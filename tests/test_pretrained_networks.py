"""From pretrained weights to a small student, by the script, on a folder of photographs."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

import nets
from experiment.run.training import read_history
from registry import UserError
from train_w_distill import Settings, list_layers, train

SIZE = 96
CLASSES = ("daisy", "rose", "tulip")
TAPS = ("first", "second")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for number, name in enumerate(CLASSES):
            place = folder / split / name
            place.mkdir(parents=True)
            for image in range(count):
                pixels = random.integers(0, 100, (SIZE, SIZE, 3), np.uint8)
                pixels[..., number] += 100
                Image.fromarray(pixels).save(place / f"{image}.png")
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """Depthwise-separable, of widths that no teacher here has."""
    image = maps = keras.Input((SIZE, SIZE, 3))
    maps = keras.layers.Conv2D(6, 3, 4, "same", activation="relu")(maps)
    for tap, width in zip(TAPS, (10, 14), strict=True):
        maps = keras.layers.SeparableConv2D(width, 3, 2, "same", use_bias=False)(maps)
        maps = keras.layers.BatchNormalization()(maps)
        maps = keras.layers.ReLU(name=tap)(maps)
    logits = keras.layers.Dense(len(CLASSES))(keras.layers.GlobalAveragePooling2D()(maps))
    path = tmp_path_factory.mktemp("student") / "student.keras"
    keras.Model(image, logits, name="separable").save(path)
    return path


def settings_of(photographs, student, folder, **given):
    return Settings(
        dataset=f"folder:{photographs}", image_size=SIZE, student_model=str(student),
        student_taps=TAPS, epochs=1, batch_size=6, learning_rate=0.01, train_dir=str(folder),
        validation_fraction=0, rotation=0, **given,
    )


def check_fine_tuned(folder, raw=True):
    """The teacher's run is that of a fine-tuned network of raw images and of these classes."""
    summary = json.loads((folder / "teacher" / "summary.json").read_text())
    assert summary["method"] == "None(head_share=0.2)" and summary["class_names"] == list(CLASSES)
    assert (summary["preprocessing"]["mean"] == [0, 0, 0]) == raw
    assert (summary["preprocessing"]["deviation"] == [1, 1, 1]) == raw
    stages = [row["stage"] for row in read_history(folder / "teacher" / "history.csv")]
    assert stages == ["classifier", "all"]
    return nets.load(folder / "teacher").model


@pytest.mark.slow
def test_weights_of_keras_applications_teach_a_separable_student(
    photographs, student, tmp_path, eagerly
):
    given = {"alpha": 0.25, "input_shape": (SIZE, SIZE, 3), "weights": None}
    pretrained = keras.applications.MobileNet(classes=9, **given)
    pretrained.save_weights(tmp_path / "pretrained.weights.h5")
    folder = tmp_path / "run"
    summary = train(settings_of(
        photographs, student, folder, Distillation="SSKD_SVD",
        teacher_model="keras.applications:MobileNet", teacher_options=("alpha=0.25",),
        teacher_weights=str(tmp_path / "pretrained.weights.h5"), teacher_epochs=2,
        teacher_learning_rate=1e-5, teacher_taps=("conv_pw_3_relu", "conv_pw_5_relu"),
    ))
    teacher = check_fine_tuned(folder)
    # It was made of the given weights, and a step or two of training has not taken them far.
    kernel, own = (model.get_layer("conv1").kernel for model in (teacher, pretrained))
    assert 0 < np.abs(kernel - own).max() < 0.01
    assert summary["teacher_top1"] is not None
    assert nets.load(folder).model.output_shape == (None, len(CLASSES))


@pytest.mark.slow
def test_a_preset_teaches_a_separable_student(photographs, student, tmp_path, eagerly):
    hub = pytest.importorskip("keras_hub")
    hub.models.ViTBackbone(
        image_shape=(SIZE, SIZE, 3), patch_size=16, num_layers=3, num_heads=2, hidden_dim=8,
        mlp_dim=16,
    ).save_to_preset(tmp_path / "vit")
    blocks = tuple(f"backbone/vit_encoder/{number}" for number in (0, 2))
    given = {
        "teacher_model": f"keras_hub:{tmp_path / 'vit'}", "teacher_taps": blocks,
    }
    settings = settings_of(photographs, student, tmp_path / "run", teacher_epochs=2, **given)
    assert all(f"{block} " in list_layers(settings) for block in blocks)
    train(settings)
    check_fine_tuned(tmp_path / "run", raw=False)  # the preset does not say what images it takes
    # Its features alone, as they are.
    alone = settings_of(
        photographs, student, tmp_path / "alone", main_loss="none", Distillation="AT", **given
    )
    assert train(alone)["teacher_top1"] is None
    assert not (tmp_path / "alone" / "teacher").exists()
    with pytest.raises(UserError, match="compares logits, but the teacher has no logits"):
        train(settings_of(
            photographs, student, tmp_path / "no", teacher_epochs=0, Distillation="Soft_logits",
            **given,
        ))
    assert not (tmp_path / "no").exists()
