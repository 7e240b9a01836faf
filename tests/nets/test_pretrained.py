"""Networks that come with the project."""

import hashlib
import json

import pytest

import nets
from nets.pretrained import FOLDER, PREFIX, included_file, included_names
from registry import UserError


@pytest.mark.parametrize("name", included_names())
def test_each_network_is_what_its_card_says(name):
    file, card = included_file(f"{PREFIX}{name}")
    assert card["name"] == name and 0 < card["top1"] <= 1
    assert {"recipe", "preprocessing", "parameters", "dataset"} <= card.keys()
    stored = nets.load(f"{PREFIX}{name}")
    assert stored.has_logits
    assert stored.standardize.mean == tuple(card["preprocessing"]["mean"])
    assert nets.count_parameters(stored.model) == card["parameters"]
    assert file.stat().st_size < 1.5e6


def test_all_of_them_are_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 1.5e6


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no network 'pretrained:cifar' comes with the project"):
        nets.load("pretrained:cifar")
    (tmp_path / "one.json").write_text(json.dumps({"sha256": hashlib.sha256(b"a").hexdigest()}))
    with pytest.raises(UserError, match="one.keras is missing"):
        included_file("pretrained:one", tmp_path)
    (tmp_path / "one.keras").write_bytes(b"b")
    with pytest.raises(UserError, match="another SHA-256"):
        included_file("pretrained:one", tmp_path)
    (tmp_path / "one.keras").write_bytes(b"a")
    assert included_file("pretrained:one", tmp_path)[0] == tmp_path / "one.keras"
