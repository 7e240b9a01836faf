"""A stored network is recognised by its files, whatever else is beside them."""

import hashlib

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


def test_what_is_no_path_has_no_fingerprint(tmp_path):
    names = {"a": None, "b": "pretrained:cifar100_resnet20", "c": "imagenet", "d": "random:x"}
    assert nets.fingerprints(names) == {}
