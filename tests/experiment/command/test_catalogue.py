"""What is read from the source is what importing gives."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import dataloader
import nets
import plugins
from dataloader import loading
from distillers.registration import METHODS
from experiment.command import catalogue
from experiment.run import devices
from op_util.schedules import SCHEDULES
from registry import UserError
from settings import known

ROOT = Path(__file__).parents[3]
HEAVY = ("tensorflow", "keras", "matplotlib", "scipy")


@pytest.fixture(scope="module")
def declared():
    return catalogue.plugin_registry("distillation method", "distillers")


def described(registry, name):
    plugin = registry.get(name)
    fields = {
        key: (field.default, dict(field.metadata)) for key, field in
        plugin.hyper_parameters().items()
    }
    return fields, plugins.field_types(plugin), plugins.described_fields(plugin), plugin.paper


def test_methods(declared):
    assert set(declared.names()) == set(METHODS.names())
    for name in METHODS.names():
        assert described(declared, name) == described(METHODS, name), name
        assert declared.get(name).needs_teacher == METHODS.get(name).needs_teacher


def test_values_are_checked_as_by_the_method_itself(declared):
    for name, given in (("AT", {"weight": "-1"}), ("SSKD_SVD", {"solver": "svdd"})):
        messages = []
        for registry in (declared, METHODS):
            with pytest.raises(UserError) as error:
                plugins.configured(registry.get(name), name, given)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
    assert plugins.configured(declared.get("AT"), "AT", {"weight": "3"}).settings() == {
        **METHODS.get("AT")(weight=3).settings()
    }


def test_networks_and_pairs():
    found = catalogue.registrations("nets")
    assert {each.name for each in found} == set(nets.names())
    calls = catalogue.calls("nets", "declare_pair")
    pairs = {name: tuple(pair.values()) for (name,), pair in calls}
    assert pairs == {name: nets.pair(name) for name in nets.pairs()}


def test_constants():
    assert known.SCHEDULES == SCHEDULES
    assert known.STRATEGIES == devices.STRATEGIES
    assert known.IN_MEMORY == loading.IN_MEMORY
    assert known.PREPROCESSING == nets.PREPROCESSING
    assert known.is_application("Keras.Applications:x") and not known.is_application("VGG")
    assert known.is_encoder("tte:x") and nets.is_pretrained("tte:x")


@pytest.mark.parametrize("name", ["voc:x", "voc/2007", "digits", "tfds:x", "folder:x", "cifar100"])
def test_detection_data_is_known(name, monkeypatch):
    expected = dataloader.is_scenes(name)
    monkeypatch.delitem(sys.modules, "dataloader")
    assert known.is_scenes(name) == expected


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["train_w_distill.py", "--help"], 0),
        (["train_w_distill.py", "--Distillation=help"], 0),
        (["train_w_distill.py", "--Distillation=SSKD_SVDD"], 2),
        (["train_w_distill.py", "--epochs=0"], 2),
        (["train_w_distill.py", "--net=VVG"], 2),
        (["train_w_distill.py", "--Distillation=AT(weight=-1)"], 2),
        (["evaluate.py", "--encoder=pixels", "--dataset=voc:x", "--targets=clustering"], 2),
        (["compare.py", "--help"], 0),
        (["compare.py", "--Distillation=help"], 0),
        (["compare.py", "--Distillation=AT,SP", "--weight=1"], 2),
    ],
)
def test_answers_come_without_loading_tensorflow(words, status):
    """A hook that refuses these imports, so that none is hidden by a fast machine."""
    code = (
        "import runpy, sys\n"
        "class Refused:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name.split('.')[0] in {HEAVY}: raise SystemExit(f'imported {{name}}')\n"
        "sys.meta_path.insert(0, Refused())\n"
        "sys.argv = sys.argv[1:]; sys.path.insert(0, '.')\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == (status == 2)


EXAMPLE = '''
from __future__ import annotations
import tensorflow as tf
from plugins import Plugin, option
from elsewhere import Base, LIMIT

WORDS = ("one", *("two", "three"))

@register("B", level=tf.constant)
@register("A")
class Example(Base):
    """An example.

    Args:
        word: one of the words.
    """
    paper = "somewhere"
    word: str = option("one", choices=WORDS)
    high: float | None = option(None, maximum=LIMIT * 2)
    kind: tf.DType = tf.float32

    @property
    def reads(self): ...

register("C")(Example)
'''
ELSEWHERE = '''
from typing import ClassVar
from plugins import Plugin, option
LIMIT = 2.5
class Base(Plugin):
    reads: ClassVar[str] = "maps"
    needs: ClassVar[bool] = True
    weight: float = 1.0
    def run(self): return undefined
'''


def test_whatever_a_class_inherits_or_imports(tmp_path, monkeypatch):
    (tmp_path / "example.py").write_text(EXAMPLE.replace(", level=tf.constant", ", level=3"))
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    registry = catalogue.plugin_registry("example", "example")
    assert registry.names() == ["A", "B", "C"] and registry.facts("B") == {"level": 3}
    example = registry.get("C")
    assert (example.paper, example.needs, example.reads) == ("somewhere", True, None)
    assert {key: field.default for key, field in example.hyper_parameters().items()} == {
        "weight": 1.0, "word": "one", "high": None
    }
    assert plugins.field_types(example)["high"] == float | None
    with pytest.raises(UserError, match="high must be at most 5.0, not 6.0"):
        example(high=6)
    with pytest.raises(UserError, match="expected one of one, two, three"):
        example(word="four")
    assert dataclasses.is_dataclass(example)
