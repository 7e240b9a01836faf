"""What the settings make of pretrained networks; no network is loaded here."""

import pytest

import compare
from registry import UserError
from settings.distillation import FINE_TUNING, Settings

PRESET = {"teacher_model": "keras_hub:vit"}
APPLICATION = {"teacher_model": "keras.applications:ResNet50", "teacher_weights": "imagenet"}
FILE = {"teacher_model": "teacher.keras"}


@pytest.mark.parametrize(("given", "ready"), [
    (PRESET, False),
    (APPLICATION, False),
    ({"teacher_model": "keras.applications:ResNet50"}, False),
    ({**PRESET, "teacher_epochs": 0}, True),
    ({**APPLICATION, "main_loss": "none"}, True),
    ({**APPLICATION, "main_loss": "none", "teacher_epochs": 3}, False),
    (FILE, True),
    ({**FILE, "teacher_epochs": 3}, False),
    ({**FILE, "teacher_epochs": 3, "teacher": "runs/teacher"}, True),
    ({"main_loss": "none"}, False),
])
def test_when_a_teacher_needs_no_training(given, ready):
    assert Settings(**given).checked().teacher_is_ready() == ready


@pytest.mark.parametrize("given", [PRESET, APPLICATION, {**FILE, "teacher_epochs": 3}])
def test_the_run_that_fine_tunes_a_teacher(given, tmp_path):
    settings = Settings(**given, teacher_learning_rate=1e-3, learning_rate=0.1)
    alone = settings.of_teacher(tmp_path)
    assert alone.Distillation == FINE_TUNING and alone.fine_tunes()
    assert alone.student_model == given["teacher_model"] == alone.student_name()
    assert alone.student_weights == given.get("teacher_weights")
    assert alone.learning_rate == 1e-3 and alone.teacher_learning_rate is None
    assert alone.is_pretrained("student") == settings.is_pretrained("teacher")
    assert (alone.teacher_model, alone.teacher_weights) == (None, None)
    alone.checked()


@pytest.mark.parametrize(("given", "warmup"), [
    ({"warmup_epochs": 5.0, "schedule": "cosine", "epochs": 100}, 5.0),
    ({"warmup_epochs": 5.0, "schedule": "cosine", "epochs": 100, "teacher_epochs": 4}, 0.2),
    ({"warmup_epochs": 5.0, "schedule": "cosine", "teacher_epochs": 4}, None),
    # The student's recipe has a cosine, which the teacher's may not have.
    ({"warmup_epochs": 5.0, "epochs": 100}, None),
    ({"warmup_epochs": 0.0}, 0.0),
    ({"schedule": "cosine", "epochs": 100, "teacher_epochs": 4}, None),
])
def test_the_teacher_warms_up_for_the_same_share_of_its_epochs(given, warmup, tmp_path):
    assert Settings(**FILE, **given).of_teacher(tmp_path).warmup_epochs == warmup


def test_imagenet_is_no_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").mkdir()
    files = Settings(**APPLICATION, student_init="tte:runs/encoder").network_files()
    assert files["teacher_weights"] is None and files["student_init"] == "runs/encoder"
    (tmp_path / "own.weights.h5").touch()
    own = {**APPLICATION, "teacher_weights": "own.weights.h5"}
    assert Settings(**own).network_files()["teacher_weights"] == "own.weights.h5"


@pytest.mark.parametrize(("student", "name"), [
    ({"student_model": "keras.applications:mobilenetv2"}, "MobileNetV2"),
    ({"student_model": "keras.applications:Xception"}, "Xception"),
    ({"student_model": "keras_hub:vit_base"}, "keras_hub_vit_base"),
    ({"student_model": "keras_hub:presets/vit.v2"}, "vit.v2"),
    ({"student_model": "models/own.v2.keras"}, "own.v2"),
    ({"student_net": "VGG_student"}, "VGG_student"),
])
def test_runs_of_different_students_have_folders_of_their_own(student, name):
    assert str(Settings(**student).folder()) == f"runs/digits-{name}-SSKD_SVD-0"


@pytest.mark.parametrize(("given", "message"), [
    ({**FILE, "teacher_options": ("width=8",)}, "--teacher_model teacher.keras is one already"),
    ({"student_model": "a.h5", "student_options": ("width=8",)}, "leave the options out"),
    ({"teacher_weights": "imagenet"}, "--teacher_model is not given: give --teacher_model keras.a"),
    ({**PRESET, "teacher_weights": "a.h5"}, "keras_hub:vit, which brings its own: leave them out"),
    ({"student_model": "a.keras", "student_weights": "a.h5"}, "--student_model is a.keras: give"),
    ({"teacher_epochs": 0}, "--teacher_epochs 0 needs a pretrained teacher, and none"),
])
def test_what_does_not_go_together_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        Settings(**given).checked()


@pytest.mark.parametrize("ready", [False, True])
def test_a_comparison_trains_the_teacher_unless_it_is_ready(ready, tmp_path):
    settings = Settings(**APPLICATION, teacher_epochs=0 if ready else 4, epochs=9)
    comparison = compare.Comparison(
        Distillation="None,AT", seeds=1, compare_dir=str(tmp_path / "c")
    )
    runs = compare.plan(comparison, settings)
    assert [run.group for run in runs] == [*([] if ready else ["teacher"]), "None", "AT"]
    words = set(runs[-1].command)
    assert words > {
        "--teacher_model=keras.applications:ResNet50", "--teacher_weights=imagenet"
    }
    if not ready:
        assert set(runs[0].command) > {
            "--student_model=keras.applications:ResNet50", "--student_weights=imagenet",
            f"--Distillation={FINE_TUNING}", "--epochs=4",
        }
        assert f"--teacher={runs[0].folder}" in words
