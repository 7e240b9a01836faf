"""A stored network is recognised by its files, whatever else is beside them."""

import hashlib
import json
import shutil
import zipfile

import keras
import numpy as np

import nets


def test_a_file_is_recognised_by_its_bytes(tmp_path):
    (tmp_path / "a.keras").write_bytes(b"one")
    (tmp_path / "b.keras").write_bytes(b"two")
    found = nets.fingerprints({"a": f"{tmp_path}/a.keras", "b": f"{tmp_path}/b.keras"})
    expected = hashlib.sha256(hashlib.sha256(b"one").digest()).hexdigest()[:16]
    assert found["a"] == expected != found["b"]


def test_a_folder_is_recognised_by_its_network(tmp_path):
    def found():
        return nets.fingerprints({"run": str(tmp_path)})["run"]

    for name in ("student.keras", "encoder.keras", "saved_model.pb", "variables/variables.index"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        before = found()
        file.write_bytes(b"weights")
        assert found() != before
    before = found()
    (tmp_path / "summary.json").write_text("{}")  # gets new entries when files are exported
    assert found() == before


def test_a_run_that_has_no_network_yet_is_not_recognised(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "checkpoint.npz").write_bytes(b"half of the training")
    assert nets.fingerprints({"run": str(tmp_path)}) == {}
    (tmp_path / "student.keras").write_bytes(b"weights")
    before = nets.fingerprints({"run": str(tmp_path)})
    (tmp_path / "checkpoint.npz").unlink()
    assert list(before) == ["run"] and nets.fingerprints({"run": str(tmp_path)}) == before


def test_a_network_that_is_saved_again_is_the_same(tmp_path):
    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.Dense(2, name="logits")(image))

    def found(name):
        return nets.fingerprints({"it": f"{tmp_path}/{name}"})["it"]

    for name, saved in (("a.keras", "2024-01-01"), ("b.keras", "2025-01-01")):
        model.save(tmp_path / name)
        with_date(tmp_path / name, saved)
    assert found("a.keras") == found("b.keras")
    nets.write_class_names(tmp_path / "a.keras", ["one", "two"])
    assert found("a.keras") == found("b.keras")
    kernel = model.get_layer("logits").kernel
    kernel.assign(np.array(kernel) + 1e-3)
    model.save(tmp_path / "c.keras")
    assert found("c.keras") != found("b.keras")
    shutil.copy(tmp_path / "c.keras", tmp_path / "b.keras")
    assert found("c.keras") == found("b.keras")


def with_date(path, date):
    """Write a date into a file as if Keras had saved it then."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    metadata = {**json.loads(members["metadata.json"]), "date_saved": date}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, json.dumps(metadata) if name == "metadata.json" else content)


def test_all_of_another_folder_counts(tmp_path):
    preset = tmp_path / "preset"
    (preset / "inner").mkdir(parents=True)
    (preset / "config.json").write_text("{}")
    before = nets.fingerprints({"it": str(preset)})
    (preset / "inner" / "model.weights.h5").write_bytes(b"weights")
    assert nets.fingerprints({"it": str(preset)}) != before


def test_what_is_no_path_has_no_fingerprint(tmp_path):
    names = {"a": None, "b": "pretrained:cifar100_resnet20", "c": "imagenet", "d": "random:x"}
    assert nets.fingerprints(names) == {}
