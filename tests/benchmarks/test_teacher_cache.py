"""The benchmark of the teacher's cache runs, as small as can be."""

import importlib
from pathlib import Path

from settings.distillation import Settings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_first_method_computes_the_outputs_for_all(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # as for a script
    benchmark = importlib.import_module("teacher_cache")
    monkeypatch.setattr(benchmark, "METHODS", ("Soft_logits", "RKD"))
    benchmark.main(Settings(
        net="VGG_stride", teacher_options=("width=4",), student_options=("width=4",),
        train_images=20, batch_size=10, epochs=1,
    ))
    computed, found, _, title, columns, _, *rows = capsys.readouterr().out.splitlines()
    assert "embedding and logits of 20 images in 1 epochs" in computed + found
    assert [row.split()[0] for row in rows] == ["Soft_logits", "RKD", "all"]
    seconds = [[float(number) for number in row.split()[1:]] for row in rows]
    assert all(number > 0 for row in seconds for number in row)
