"""The timer behind the step times, and that the benchmarks run."""

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.commands import own_flags, run_script

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_times_are_medians_of_what_is_waited_for_after_two_calls(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    timing = importlib.import_module("timing")
    clock, calls = [0.0], Counter()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    class Later:
        """Takes its time when it is waited for, as on a GPU."""

        def __init__(self, seconds):
            self.seconds = seconds

        def numpy(self):
            clock[0] += self.seconds

    def function(name, unit):
        def call():
            calls[name] += 1
            return Later(100.0 if calls[name] <= 2 else unit * calls[name])

        return call

    found = timing.medians({"a": function("a", 1.0), "b": function("b", 2.0)}, rounds=3)
    assert found == pytest.approx({"a": 4e3, "b": 8e3})  # of the calls 3, 4, 5
    assert calls == {"a": 5, "b": 5}


def test_methods_that_do_not_fit_the_networks_are_named_not_timed(monkeypatch, capsys):
    """CAT_KD does not fit VGG, which ends in dense layers."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    with own_flags(lambda: None):
        step_time = importlib.import_module("step_time")
    monkeypatch.delitem(sys.modules, "step_time")
    monkeypatch.setattr(step_time.distillers, "names", lambda: ["CAT_KD", "None"])
    timed = []
    monkeypatch.setattr(step_time, "print_steps", lambda steps, ratios: timed.extend(steps))
    monkeypatch.setattr(step_time, "make_step", lambda method, batch: step_time.Distiller(
        step_time.nets.build("VGG_student", classes=10, width=4), method,
        step_time.nets.build("VGG_teacher", classes=10, width=4),
    ))
    monkeypatch.setattr(step_time, "random_batch", lambda: {})
    step_time.time_zoo()
    assert timed == ["None"]
    assert "left out: CAT_KD" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("script", "words", "said"), [
    ("step_time", ["--parts=losses", "--batch_size=4", "--rounds=1"], "svd / auto ="),
    ("batch_normalization", ["--nets=ResNet_student", "--policies=float32", "--batch_size=2",
                             "--rounds=1"], "training, ratio"),
    ("filter_gradients", ["--parts=steps", "--nets=VGG_stride", "--policies=float32",
                          "--batch_size=2", "--rounds=1"], "product"),
    ("input_pipeline", ["--rounds=1"], "flip, rotation, crop"),
    ("pretrain_step", ["--tasks=rotation,instance", "--batch_size=4", "--train_images=8",
                       "--rounds=1"], "/ plain sum"),
])
def test_a_benchmark_prints_its_figures(script, words, said, monkeypatch, capsys, eagerly):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    assert said in run_script(monkeypatch, capsys, BENCHMARKS / f"{script}.py", *words)
