"""The costs in tables are measured on the table's own networks and images, beside each other."""

import importlib
from pathlib import Path

import pytest
from absl import flags

from registry import UserError
from settings.comparison import Comparison
from settings.distillation import Settings
from tests.commands import own_flags

EVIDENCE = Path(__file__).parents[2] / "benchmarks" / "evidence"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(EVIDENCE))  # as for a script
    return importlib.import_module("step_costs")


def measure(script, file, methods, settings, monkeypatch):
    given = Comparison(Distillation=methods, compare_dir="c", seeds=2)
    monkeypatch.setattr(script, "medians", medians)
    with own_flags(script.define):
        flags.FLAGS(["step_costs.py", "--table=small", "--rounds=1"])
        script.main(given, settings, file)


def medians(steps, rounds):
    """Each step is trained twice, and finite."""
    for step in steps.values():
        assert float(step()["loss"]) != float(step()["loss"]) < 1e4
    return {name: 100.0 * (place + 1) for place, name in enumerate(steps)}


def test_costs_are_in_steps_of_none(script, tmp_path, monkeypatch):
    file = tmp_path / "costs.csv"
    file.write_text("table,method,milliseconds,step_cost,machine\nother,None,1,1,\n")
    settings = Settings(
        net="MobileNet", student_options=("width=8", "first=8"), train_images=40, batch_size=8,
        epochs=1, dataset="digits",
    )
    measure(script, file, "None,DML", settings, monkeypatch)
    lines = file.read_text().splitlines()
    assert lines[1:] == ["other,None,1,1,", "small,None,100.0,1.000,", "small,DML,200.0,2.000,"]


@pytest.mark.parametrize(
    ("methods", "message"),
    [("AT", "does not include None"), ("None,AT", "give --teacher")],
)
def test_what_cannot_be_measured_is_refused(script, tmp_path, monkeypatch, methods, message):
    with pytest.raises(UserError, match=message):
        measure(script, tmp_path / "costs.csv", methods, Settings(), monkeypatch)
    assert not (tmp_path / "costs.csv").exists()
