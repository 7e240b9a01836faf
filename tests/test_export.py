"""The script as a person at the keyboard sees it: what it writes and refuses."""

import dataclasses
import json
import re

import keras
import numpy as np
import pytest

import dataloader
import export
import nets
from experiment.command.main import run
from experiment.run.folder import RunFolder
from registry import UserError
from settings import export as export_settings
from settings import exporting
from settings import formats as exporting_formats
from tests.commands import script_caller
from tests.dataloader.pictures import save
from tests.experiment.export.networks import DEVIATION, MEAN, NAMES, images, student


@pytest.fixture
def script(monkeypatch, capsys):
    """Call the script within this process: ``script(*arguments)`` gives status, out and err."""

    def begin():
        run(export.main, export_settings.read_settings(export.__doc__))

    return script_caller("export.py", begin, monkeypatch, capsys)


def save_run(path, train=200, **summary):
    """The folder of a finished run, as far as export.py reads it."""
    np.savez(
        path.parent / "data.npz", x_train=images(train), y_train=np.arange(train) % 4,
        x_test=images(60, seed=2), y_test=np.arange(60) % 4, class_names=np.array(NAMES),
    )
    network = student()
    with RunFolder(path) as folder:
        folder.open({"dataset": "mine"})
        network.save(folder.output("student.keras"))
        folder.finish({
            "preprocessing": {"mean": MEAN, "deviation": DEVIATION},
            "settings": {
                "Distillation": "None", "dataset": f"npz:{path.parent / 'data.npz'}",
                "validation_fraction": 0.0, "teacher_taps": None, "hyper_parameters": {},
            },
            **summary,
        })
    return path


@pytest.mark.slow
def test_files_and_card(script, tmp_path, warm_children):
    for module in ("ai_edge_litert", "onnxruntime", "tf2onnx"):
        pytest.importorskip(module, reason="pip install -r requirements-export.txt")
    path = save_run(tmp_path / "run")
    done = script(path, "--formats=litert-int8,onnx", "--calibration_images=150")
    assert done.status == 0, done.err
    assert "student-int8.tflite, student.onnx, card.md, card.json, card.png" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines() if str(path) not in line)
    rows = json.loads((path / "card.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["student", "litert-int8", "onnx"]
    assert rows[1]["agreement"] >= 0.9 and rows[2]["difference"] < 1e-3
    assert rows[1]["bytes"] == (path / "student-int8.tflite").stat().st_size
    for row in rows:
        assert {time["images"] for time in row["times"]} == {1, 32}
        assert all(time["milliseconds"] > 0 for time in row["times"])
    # The files are the run's: they go when it is started anew.
    with RunFolder(path) as folder:
        folder.open({"dataset": "another"}, overwrite=True)
    assert not list(path.glob("student*")) and not list(path.glob("card*"))


def test_a_run_is_needed(script, tmp_path):
    (tmp_path / "no_run").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "settings.json").write_text("{}")
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "settings.json").write_text('{"grid": "compare.py"}')
    (tmp_path / "tte").mkdir()
    (tmp_path / "tte" / "summary.json").write_text('{"kind": "tte"}')
    for words, message in (
        ([], "no run is given"),
        ([tmp_path / "no_run"], "is not a run's folder (it has no summary.json); expected"),
        ([tmp_path / "begun"], "holds a run that is not finished"),
        ([tmp_path / "grid"], "holds a comparison: give one of its runs"),
        ([tmp_path / "tte"], "holds a run of kind 'tte', with no student.keras"),
        ([tmp_path / "nowhere"], "is not a folder; expected the folder of a finished run"),
        ([tmp_path / "no_run", "--formats=tflite"], "unknown file format 'tflite'"),
        ([tmp_path / "no_run", "--formats="], "--formats is empty; expected some of"),
        ([tmp_path / "no_run", "another"], "unexpected argument"),
    ):
        done = script(*words, *([] if "--formats" in str(words) else ["--formats=keras"]))
        assert done.status == 2 and message in done.err, done.err
        assert done.err.startswith("error: ") and done.err.count("\n") == 1


def test_too_few_images_to_calibrate_on(script, tmp_path, monkeypatch):
    monkeypatch.setattr("experiment.export.format.Format.check_packages", lambda form: None)
    path = save_run(tmp_path / "run", train=60)
    before = sorted(path.iterdir())
    done = script(path, "--formats=litert-int8", "--calibration_images=100")
    assert done.status == 2
    assert "--formats litert-int8 calibrates on 100 training images, and npz:" in done.err
    assert "has 60 here" in done.err
    done = script(path, "--formats=litert-int8", "--calibration_images=20")
    assert "calibration_images must be at least 100, not 20" in done.err
    assert sorted(path.iterdir()) == before


def test_a_small_set_calibrates_by_all_its_images(script, tmp_path, monkeypatch):
    monkeypatch.setattr("experiment.export.format.Format.check_packages", lambda form: None)
    path = save_run(tmp_path / "run", train=120)
    done = script(path, "--formats=litert-int8", "--dry_run")
    assert done.status == 0, done.err
    opened = exporting.open_run(path, exporting_formats.create_formats("litert-int8"))
    assert len(opened.images.calibration) == 120
    done = script(path, "--formats=litert-int8", "--calibration_images=121")
    assert done.status == 2 and "calibrates on 121 training images" in done.err


def test_a_teacher_that_is_gone_costs_a_row_only(script, tmp_path):
    path = save_run(tmp_path / "run", settings={
        "Distillation": "Soft_logits", "dataset": f"npz:{tmp_path / 'data.npz'}",
        "teacher_model": str(tmp_path / "teacher.keras"), "validation_fraction": 0.0,
        "teacher_options": [],
    })
    student().save(tmp_path / "teacher.keras")
    done = script(path, "--formats=keras", "--dry_run")
    assert "these and teacher, student are measured" in " ".join(done.out.split()), done.err
    (tmp_path / "teacher.keras").unlink()
    done = script(path, "--formats=keras", "--dry_run")
    assert done.status == 0, done.err
    said = " ".join(done.out.split())
    assert "the card has no row for the teacher: " in said
    assert "teacher.keras does not exist" in said
    assert "these and student are measured" in said


@pytest.mark.parametrize(("changed", "message"), [
    ({}, None),
    ({"classes": np.array(["a", "b", "d", "c"])}, "class 2 is 'c' to the student and 'd' in"),
    ({"y_train": np.arange(200) % 3, "y_test": np.arange(60) % 3,
      "classes": np.array(["a", "b", "c"])}, "the student has 4 classes, npz:.* has 3"),
    ({"x_train": images(200, 20), "x_test": images(60, 20)}, "were 16x16x3, those of .* 20x20x3"),
], ids=["same", "names", "number", "size"])
def test_other_data_are_refused(script, tmp_path, changed, message):
    path = save_run(tmp_path / "run")
    nets.write_class_names(path / "student.keras", ["a", "b", "c", "d"])
    (path / "data.json").write_text('{"image shape": [16, 16, 3]}')
    with np.load(tmp_path / "data.npz") as content:
        changed = {**content, "classes": np.array(["a", "b", "c", "d"]), **changed}
    np.savez(tmp_path / "data.npz", **changed)
    done = script(path, "--formats=keras", "--dry_run")
    assert done.status == (0 if message is None else 2), done.err
    if message:
        assert re.search(f"the data are not those of the run in .*: .*{message}", done.err)
        assert done.err.count("\n") == 1


def test_a_methods_own_settings_do_not_matter(tmp_path):
    """Of KD_SVD(num_dfv=5) with --candidates 6 the name alone would be refused."""
    save_run(tmp_path / "run", settings={"Distillation": "KD_SVD(num_dfv=5)"})
    settings = exporting.run_settings(tmp_path / "run")
    assert exporting._open_teacher(settings, None, tmp_path / "run") is None


def test_settings_of_no_format_are_refused_from_python(tmp_path):
    given = export_settings.Settings(run=str(save_run(tmp_path / "run")), formats="keras",
                                     hyper_parameters={"calibration_image": 100})
    with pytest.raises(UserError, match="no hyper-parameter is called 'calibration_image' .did"):
        export.export(given)


def test_a_dry_run_writes_nothing(script, tmp_path):
    path = save_run(tmp_path / "run")
    before = sorted(path.iterdir())
    done = script("--formats=keras", path, "--dry_run", "--test_images=50")  # flags may come first
    assert done.status == 0, done.err
    assert "small into" in done.out and "student-raw.keras" in done.out
    assert "50 test images" in done.out
    assert sorted(path.iterdir()) == before


def test_a_keras_file_of_raw_images_is_a_plain_keras_model(tmp_path):
    from experiment.export.formats.keras_file import KerasFile
    from tests.experiment.export.networks import material

    KerasFile().convert(material(raw_size=40), tmp_path / "raw.keras")
    model = keras.saving.load_model(tmp_path / "raw.keras", safe_mode=True)
    found = model.predict(images(3, 40), verbose=0)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def noted_loads(monkeypatch):
    """The keyword arguments of each call of `dataloader.load` from now on."""
    calls, load = [], dataloader.load

    def noting(name, **given):
        calls.append(given)
        return load(name, **given)

    monkeypatch.setattr(dataloader, "load", noting)
    return calls


def test_where_images_stay_is_for_this_computer_to_say(tmp_path, monkeypatch):
    path = save_run(tmp_path / "run", settings={
        "Distillation": "None", "dataset": f"npz:{tmp_path / 'data.npz'}", "in_memory": "yes",
        "data_dir": "/of/the/server", "validation_fraction": 0.0, "hyper_parameters": {},
    })
    loaded = noted_loads(monkeypatch)
    plan = export_settings.Settings(run=str(path), formats="keras", dry_run=True)
    export.export(plan)
    export.export(dataclasses.replace(plan, in_memory="yes", data_dir="/here"))
    assert [(each["in_memory"], str(each["data_dir"])) for each in loaded] == [
        ("auto", "/of/the/server"), ("yes", "/here"),
    ]


def test_data_that_are_there_are_not_loaded_again(tmp_path, monkeypatch):
    path = save_run(tmp_path / "run")
    data = dataloader.load(f"npz:{tmp_path / 'data.npz'}", validation_fraction=0.0)
    loaded = noted_loads(monkeypatch)
    opened = exporting.open_run(path, exporting_formats.create_formats("keras"), data=data)
    assert opened.data is data and not loaded


def test_a_damaged_test_image_is_named(tmp_path):
    path, top = tmp_path / "run", tmp_path / "images"
    save_run(path, settings={
        "Distillation": "None", "dataset": f"folder:{top}", "validation_fraction": 0.0,
        "hyper_parameters": {},
    })
    for part, count in (("train", 2), ("test", 1)):
        for kind in NAMES:
            for number in range(count):
                save(images(1, seed=number)[0], top / part / kind / f"{number}.png")
    assert export.export(export_settings.Settings(run=str(path), formats="keras", dry_run=True))
    file = top / "test" / NAMES[1] / "0.png"
    content = file.read_bytes()
    data = dataloader.load(f"folder:{top}", in_memory="no", validation_fraction=0.0)
    file.write_bytes(content[:-20])
    with pytest.raises(UserError, match=rf"{NAMES[1]}/0\.png"):
        exporting.open_run(path, exporting_formats.create_formats("keras"), data=data)


def test_settings_arrive_at_the_export(tmp_path, monkeypatch):
    path = save_run(tmp_path / "run")
    found = {}

    def write_files(formats, networks, images, folder, min_agreement):
        found.update(formats=formats, images=images, min_agreement=min_agreement)
        raise UserError("enough is known")

    monkeypatch.setattr(exporting, "write_files", write_files)
    monkeypatch.setattr("experiment.export.format.Format.check_packages", lambda form: None)
    (tmp_path / "data.npz").rename(tmp_path / "moved.npz")
    loaded = noted_loads(monkeypatch)
    given = export_settings.Settings(
        run=str(path), formats="keras,onnx", min_agreement=0.77, test_images=33,
        dataset=f"npz:{tmp_path / 'moved.npz'}", data_dir=str(tmp_path / "sets"),
        hyper_parameters={"opset": 13},
    )
    with pytest.raises(UserError, match="enough is known"):
        export.export(given)
    assert found["min_agreement"] == 0.77
    assert len(found["images"].test) == 33
    assert [form.name for form in found["formats"]] == ["keras", "onnx"]
    assert str(loaded[0]["data_dir"]) == str(tmp_path / "sets")
    assert found["formats"][1].opset == 13
    with pytest.raises(UserError, match="data.npz"):
        export.export(dataclasses.replace(given, dataset=None))
