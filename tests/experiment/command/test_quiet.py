"""Which lines of TensorFlow about itself are left out, and when all of them are there."""

import logging
import os
from types import SimpleNamespace

import pytest

from experiment.command import quiet

ABOUT_ITSELF = [
    b"I0000 00:00:1795353344.092422    1434 port.cc:153] oneDNN custom operations are on.\n",
    b"I1129 10:00:00.000000    1434 cpu_feature_guard.cc:210] This TensorFlow binary is\n",
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n",
    b"To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.\n",
]
MATTER = [
    b"E0000 00:00:1795353344.092422    1434 cuda_dnn.cc:8310] Unable to register cuDNN factory\n",
    b"W0000 00:00:1795353344.092422    1434 gpu_device.cc:2341] Cannot dlopen some libraries.\n",
    b"Fatal Python error: Segmentation fault\n",
    b"In short\n", b"\n", b"error: I0000 was given\n",
]
NO_DRIVER = b"E0000 00:00:1 1434 cuda_executor.cc:1228] failed call to cuInit: INTERNAL: UNKNOWN\n"


def with_driver(monkeypatch, tmp_path, there):
    driver = tmp_path / "driver"
    if there:
        driver.touch()
    monkeypatch.setattr(quiet, "_DRIVERS", (str(tmp_path / "none"), str(driver)))


@pytest.mark.parametrize("there", [False, True])
def test_lines_about_tensorflow_itself_are_left_out_and_others_are_kept(
    monkeypatch, tmp_path, there
):
    with_driver(monkeypatch, tmp_path, there)
    assert not any(map(quiet._matters, ABOUT_ITSELF))
    assert all(map(quiet._matters, MATTER))


@pytest.mark.parametrize("there", [False, True])
def test_a_driver_that_fails_matters_where_there_is_one(monkeypatch, tmp_path, there):
    with_driver(monkeypatch, tmp_path, there)
    assert quiet.has_gpu_driver() == there
    assert bool(quiet._matters(NO_DRIVER)) == there


@pytest.mark.parametrize(
    ("strategy", "level"), [(None, "2"), ("auto", "2"), ("mirrored", "2"), ("multi_worker", "3")]
)
def test_errors_are_shown_but_not_those_of_each_connection_between_workers(
    monkeypatch, strategy, level
):
    flags = {} if strategy is None else {"strategy": SimpleNamespace(value=strategy)}
    monkeypatch.setattr(quiet.flags, "FLAGS", flags)
    monkeypatch.delenv(quiet._LEVEL)
    monkeypatch.setattr(logging.getLogger("tensorflow"), "level", logging.INFO)
    quiet._load()
    assert os.environ[quiet._LEVEL] == level
    assert logging.getLogger("tensorflow").level == logging.WARNING


@pytest.mark.parametrize(("asked", "held"), [("0", 0), ("1", 1), ("3", 1)])
def test_what_the_environment_asks_for_stays(monkeypatch, asked, held):
    holds = []
    hold = quiet.held_stderr
    monkeypatch.setattr(quiet, "held_stderr", lambda kept: holds.append(kept) or hold(kept))
    monkeypatch.setattr(logging.getLogger("tensorflow"), "level", logging.INFO)
    monkeypatch.setenv(quiet._LEVEL, asked)
    quiet._load()
    assert os.environ[quiet._LEVEL] == asked and holds == [quiet._matters] * held
    expected = logging.WARNING if held else logging.INFO
    assert logging.getLogger("tensorflow").level == expected
