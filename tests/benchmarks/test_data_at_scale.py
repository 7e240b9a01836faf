"""The benchmark of data on disk runs, as small as can be."""

import importlib
from pathlib import Path

import pytest

from registry import UserError
from tests.commands import own_flags

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_an_epoch_is_read_and_the_set_is_found_again(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # as for a script
    with own_flags(lambda: None):  # whose names the commands use too
        benchmark = importlib.import_module("data_at_scale")
    for name, value in (("DIFFERENT", 4), ("SIDES", (20, 24)), ("CLASSES", 2),
                        ("TEST_IMAGES", 4), ("REPORTS", 3), ("COMPARED_SECONDS", 0.1)):
        monkeypatch.setattr(benchmark, name, value)
    benchmark.report(tmp_path, images=40, image_size=16, batch_size=8, seconds=None)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("40 images, 0.00 GiB on disk") for line in lines)
    table = lines.index(next(line for line in lines if line.split()[0:1] == ["images"]))
    rows = [line.split() for line in lines[table + 2 : table + 6]]
    assert [row[0] for row in rows] == ["8", "16", "32", "40"]
    assert all(float(cell) > 0 for row in rows[1:] for cell in row)
    assert lines[table + 6].startswith("peak ") and lines[table + 6].endswith(" MiB")
    speeds = [float(line.split()[-1]) for line in lines[-4:]]
    assert len(speeds) == 4 and min(speeds) > 0
    with pytest.raises(UserError, match="a set of 40 images, not 41"):
        benchmark.report(tmp_path, images=41, image_size=16, batch_size=8, seconds=None)
