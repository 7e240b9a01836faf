"""The card of a network that comes with the project is about the weights in its file."""

import importlib
import json
from pathlib import Path

import pytest

from experiment.command.options import values
from settings.distillation import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def including(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "evidence"))  # as for a script
    return importlib.import_module("include_network")


def test_the_card_states_the_accuracy_of_the_stored_weights(including, tmp_path):
    """Those of the best epoch, where a run has validation images."""
    settings = {**values(Settings()), "student_net": "ResNet_student"}
    run = tmp_path / "run"
    run.mkdir()
    (run / "student.keras").write_bytes(b"weights of the best epoch")
    (run / "summary.json").write_text(json.dumps({
        "dataset": "npz:/somewhere/images.npz", "method": "None", "parameters": 1, "flops": 2,
        "preprocessing": {}, "settings": {key: settings[key] for key in (
            "student_net", "student_options", *including.RECIPE)},
        "student_top1": 0.6, "student_top1_last": 0.5, "student_top1_best": 0.6,
        "student_top5": 0.9, "student_top5_last": 0.8,
    }))
    card = including.include(run, "own", tmp_path / "pretrained")
    assert (card["top1"], card["top5"], card["dataset"]) == (0.6, 0.9, "npz:images.npz")
    assert json.loads((tmp_path / "pretrained" / "own.json").read_text()) == card
