"""Files that name other files, claim more than they hold, or are no files, are not read."""

import io
import os
import zipfile

import h5py
import keras
import numpy as np
import pytest
import scipy.io

import nets
from nets import file_checks
from registry import UserError

VALUES = np.arange(12, dtype="float32").reshape(3, 4)
NAME = "layers/dense/vars/0"


def model():
    image = keras.Input((3,))
    return keras.Model(image, keras.layers.Dense(4, use_bias=False)(image), name="small")


def external(file, folder):
    (folder / "secret").write_bytes(VALUES.tobytes())
    file.create_dataset(NAME, (3, 4), "f4", external=[(str(folder / "secret"), 0, VALUES.nbytes)])


def virtual(file, folder):
    with h5py.File(folder / "secret.h5", "w") as other:
        other["x"] = VALUES
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[...] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (3, 4))
    file.create_virtual_dataset(NAME, layout)


def external_link(file, folder):
    with h5py.File(folder / "secret.h5", "w") as other:
        other["x"] = VALUES
    file[NAME] = h5py.ExternalLink(str(folder / "secret.h5"), "x")


def soft_link(file, folder):
    file["elsewhere"] = VALUES
    file[NAME] = h5py.SoftLink("/elsewhere")


def linked_group(file, folder):
    with h5py.File(folder / "secret.h5", "w") as other:
        other["vars/0"] = VALUES
    file["layers/dense"] = h5py.ExternalLink(str(folder / "secret.h5"), "/")


def bomb(file, folder):
    file.create_dataset(NAME, (3, 10_000_000), "f4", chunks=(3, 1000), compression="gzip")


FOREIGN = {
    external: "external storage", virtual: "a virtual data set", external_link: "a link",
    soft_link: "a link", linked_group: "a link", bomb: "claims 120 MB",
}


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
@pytest.mark.parametrize("ending", [".weights.h5", ".keras", ".h5"])
def test_numbers_that_lie_elsewhere_are_not_read(tmp_path, make, ending):
    if ending == ".weights.h5":
        path = tmp_path / f"net{ending}"
        with h5py.File(path, "w") as file:
            make(file, tmp_path)
    elif ending == ".keras":
        path = tmp_path / "model.keras"
        model().save(path)
        weights = io.BytesIO()
        with h5py.File(weights, "w") as file:
            make(file, tmp_path)
        rewrite(path, **{"model.weights.h5": weights.getvalue()})
    else:
        path = tmp_path / "model.h5"
        model().save(path)
        with h5py.File(path, "r+") as file:
            make(file, tmp_path)
    known = {"net": "VGG_student", "input_shape": (16, 16, 3), "classes": 5}
    with pytest.raises(UserError, match=FOREIGN[make]) as caught:
        nets.load(path, **known)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def rewrite(path, **contents):
    """Replace parts of a zip archive, or leave them out (None)."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()} | contents
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            if content is not None:
                archive.writestr(name, content)


def test_groups_that_contain_one_another_are_looked_through_once(tmp_path):
    path = tmp_path / "circle.h5"
    with h5py.File(path, "w") as file:
        file["a/b/x"] = VALUES
        file["a/b/again"] = file["a"]
        file_checks.check_h5(file, path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"config.json": None}, "no config.json"),
        ({"model.weights.h5": None}, "no model.weights.h5"),
        ({"model.weights.h5": b"nothing"}, "damaged"),
        ({"config.json": b"["}, "damaged"),
        ({"config.json": b"[" * 100_000}, "damaged"),
        ({"../outside.txt": b"x"}, "leads out of the archive"),
        ({"/outside.txt": b"x"}, "leads out of the archive"),
        ({"assets/zeros": bytes(70_000_000)}, "claims 70 MB"),
    ],
)
def test_archives_that_are_not_to_be_read(tmp_path, contents, message):
    path = tmp_path / "model.keras"
    model().save(path)
    rewrite(path, **contents)
    with pytest.raises(UserError, match=message) as caught:
        nets.load(path)
    assert "\n" not in str(caught.value)


def test_a_changed_byte_is_damage(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((64,)), keras.layers.Dense(200)]).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        nets.load(path)


@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5", ".mat"])
def test_pipes_and_missing_files_are_refused_at_once(tmp_path, ending):
    known = {"net": "VGG_student", "input_shape": (16, 16, 3), "classes": 5}
    os.mkfifo(tmp_path / f"pipe{ending}")
    with pytest.raises(UserError, match="not a regular file"):
        nets.load(tmp_path / f"pipe{ending}", **known)
    with pytest.raises(UserError, match="does not exist"):
        nets.load(tmp_path / f"none{ending}", **known)


def test_a_mat_file_that_claims_more_than_memory_holds(tmp_path, monkeypatch):
    scipy.io.savemat(tmp_path / "net.mat", {"vgg6/block0/conv0/weights": np.zeros((3, 3, 3, 64))})
    monkeypatch.setattr(scipy.io, "whosmat", lambda path: [("x", (10**7, 10**7), "double")])
    with pytest.raises(UserError, match="claims need 800 TB of memory"):
        nets.load(tmp_path / "net.mat", net="VGG_student", input_shape=(16, 16, 3), classes=5)


# Sizes


def test_a_network_that_no_memory_holds_is_refused_before_it_is_made():
    with pytest.raises(UserError, match=r"at least [\d,]{13,} parameters, which need .* available"):
        nets.build("MobileNet_student", (32, 32, 3), 10, width=10**12)
    with pytest.raises(UserError, match="at least [0-9,]{13,} parameters"):
        nets.build("VGG_student", (32, 32, 3), 10**12)
    with pytest.raises(UserError, match="at least [0-9,]{13,} parameters"):
        nets.build("keras.applications:MobileNetV2", (32, 32, 3), 10**12)
    assert nets.build("MobileNet_student", (32, 32, 3), 10, width=4).built


def test_parameters_and_bytes_are_those_that_are_needed():
    message = "what has at least 10,000,000,003,000,000 parameters, which need 40,000 TB"
    with pytest.raises(UserError, match=message), nets.limited_memory("what"):
        keras.layers.Dense(10**6, use_bias=False).build((None, 3))
        keras.layers.Dense(10**8, use_bias=False, dtype="float32").build((None, 10**8))


def test_a_model_file_that_claims_a_layer_that_no_memory_holds(tmp_path):
    path = tmp_path / "model.keras"
    model().save(path)
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json").replace(b'"units": 4', b'"units": 4000000000000')
    rewrite(path, **{"config.json": config})
    with pytest.raises(UserError, match="the model in .* at least 12,000,000,000,000 parameters"):
        nets.load(path)


def test_layers_are_made_as_before_afterwards():
    before = keras.Layer.add_weight
    with pytest.raises(ZeroDivisionError), nets.limited_memory("what"):
        raise ZeroDivisionError
    assert keras.Layer.add_weight is before
    with nets.limited_memory("what"):
        layer = keras.layers.BatchNormalization()
        layer.build((None, 3))
    assert [weight.shape for weight in layer.weights] == [(3,)] * 4
