"""What the tests of scripts share: a script called within this process, as from a command line."""

import contextlib
import runpy
import sys
from types import SimpleNamespace

import keras
import pytest
from absl import flags

from dataloader import digit_scenes


@contextlib.contextmanager
def own_flags(define):
    """The flags that ``define()`` makes, not yet read from any command line; gone afterwards."""
    others = set(flags.FLAGS)
    define()
    flags.FLAGS.unparse_flags()
    try:
        yield
    finally:
        for name in set(flags.FLAGS) - others:
            delattr(flags.FLAGS, name)


@contextlib.contextmanager
def as_in_a_process_of_its_own():
    """What a script sets for its process, flags and precision, is gone afterwards."""
    policy = keras.config.dtype_policy()
    try:
        with own_flags(lambda: None):
            yield
    finally:
        keras.config.set_dtype_policy(policy)


def few_scenes(monkeypatch):
    """Of digits: making the usual thousand takes seconds."""
    monkeypatch.setattr(digit_scenes, "TRAIN_SCENES", 50)
    monkeypatch.setattr(digit_scenes, "TEST_SCENES", 20)


def run_script(monkeypatch, capsys, *words):
    """What a script says, as the main program of this process: importing TensorFlow anew for each
    command would take longer than all of them."""
    few_scenes(monkeypatch)
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    with as_in_a_process_of_its_own(), pytest.raises(SystemExit) as end:
        runpy.run_path(str(words[0]), run_name="__main__")
    out, err = capsys.readouterr()
    assert not end.value.code, err
    return out


def script_caller(name, begin, monkeypatch, capsys):
    """``call(*arguments)`` gives status, out, err and words of the script `name`; ``begin()`` is
    the script."""
    few_scenes(monkeypatch)

    def call(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with as_in_a_process_of_its_own(), pytest.raises(SystemExit) as end:
            begin()
        out, err = capsys.readouterr()
        return SimpleNamespace(status=end.value.code or 0, out=out, err=err, words=arguments)

    return call
