import dataclasses
import os
import sys

import pytest
from absl import flags

from experiment.command.options import (
    Options,
    as_flags,
    compared,
    define_flag,
    define_flags,
    from_flags,
    help_text,
    option,
    values,
)
from registry import UserError
from tests.commands import own_flags


@dataclasses.dataclass(frozen=True)
class Example(Options):
    epochs: int = option(3, "passes over the images", group="training", minimum=1)
    rate: float | None = option(None, "of learning", group="training", above=0)
    kind: str = option("plain", "a word", group="training", choices=("plain", "fancy"))
    switch: bool = option(True, "on or off", group="run", same_run=True)
    names: tuple[str, ...] = option((), "of layers", group="run")
    further: dict = dataclasses.field(default_factory=dict, hash=False)


def parsed(*words):
    with own_flags(lambda: define_flags(Example)):
        flags.FLAGS(["script", *words])
        return from_flags(Example)


def test_each_field_is_a_flag_of_its_type():
    given = parsed("--epochs=5", "--rate=1e-3", "--kind=fancy", "--noswitch", "--names=a,b")
    assert given == Example(5, 1e-3, "fancy", False, ("a", "b"))
    assert parsed() == Example()
    given = ("--rate=2", "--names=a", "--epochs=7", "--noswitch")
    assert parsed(*given, "--rate=", "--names=", "--epochs=", "--switch=") == Example()
    assert Example(names="a, b") == Example(names=["a", "b"]) == Example(names=("a", "b"))


def test_words_give_the_same_options():
    given = Example(epochs=5, rate=0.5, switch=False, names=("a", "b"))
    assert parsed(*as_flags(given)) == given
    assert as_flags(given, leave_out=("rate", "names")) == ["--epochs=5", "--noswitch"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, not 0"),
        ({"epochs": 1.5}, "--epochs must be a whole number, not 1.5"),
        ({"rate": 0.0}, "--rate must be above 0"),
        ({"rate": float("nan")}, "--rate must be a finite number"),
        ({"kind": "fanci"}, "did you mean 'fancy'"),
        ({"switch": "maybe"}, "--switch must be true or false"),
    ],
)
def test_a_wrong_value_is_refused_from_python_and_from_the_command_line(wrong, message):
    with pytest.raises(UserError, match=message):
        Example(**wrong)
    ((name, value),) = wrong.items()
    try:
        parsed(f"--{name}={value}")
    except UserError as error:
        told = str(error)
    except flags.Error as error:  # absl tells flag and value before it
        told = str(error.__context__)
    assert message in told.replace(f"'{value}'", str(value)) or "fancy" in told


def test_names_that_cannot_be_printed_are_refused():
    with pytest.raises(UserError, match=r"^--kind: b'caf\\xe9' is not in UTF-8: rename it"):
        Example(kind=os.fsdecode(b"caf\xe9"))


def test_options_cannot_be_changed():
    given = Example(further={"a": 1})
    with pytest.raises(TypeError):
        given.further["a"] = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        given.epochs = 4
    assert hash(given) == hash(Example())


def test_what_a_run_folder_compares():
    assert compared(Example()) == {name: value for name, value in values(Example()).items()
                                   if name != "switch"}


def test_help_is_by_group_with_defaults(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script"])
    with own_flags(lambda: define_flags(Example)):
        told = help_text("What it does.")
    assert told.startswith("What it does.")
    assert "training:\n  --epochs (default 3)\n    passes over the images\n" in told
    assert "a word (plain | fancy)" in told


def test_the_home_folder_is_put_in_whoever_names_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")

    @dataclasses.dataclass(frozen=True)
    class Paths(Options):
        one: str | None = option(None, is_path=True)
        several: tuple[str, ...] = option((), is_path=True)
        word: str = option("")

    paths = Paths(one="tte:~/runs/a", several="~/a.keras,random:~,pixels", word="~")
    assert paths.one == "tte:/home/ada/runs/a" and paths.word == "~"
    assert paths.several == ("/home/ada/a.keras", "random:/home/ada", "pixels")
    assert Paths(one="~/12:30/x").one == "/home/ada/12:30/x"
    assert Paths(one="a~b").one == "a~b"
    assert Paths().one is None and Paths(one="imagenet").one == "imagenet"


def test_a_field_of_another_type_is_named():
    with pytest.raises(TypeError, match="--mine: its field must be int, float, bool, str or tuple"):
        define_flag("mine", list[int], None, "about", "group")
