"""Declarations of plug-ins: types, ranges, and how a person writes them."""

import dataclasses

import pytest

from plugins import (
    Plugin,
    convert,
    create,
    described_fields,
    option,
    parse,
    spelled,
    split,
    summands,
)
from registry import Registry, UserError

PLUGINS = Registry("example")


@PLUGINS.register("Example_One")
class Example(Plugin):
    """An example.

    Args:
        weight: of the loss.
        count, parts: two `numbers` that are
            described over two lines.
        kind: a word.
    """

    weight: float | None = option(2.0, above=0)
    count: int = option(3, minimum=1, maximum=9)
    kind: str = option("plain", choices=("plain", "fancy"))
    switch: bool = option(False)
    parts: tuple[float, ...] = option((1.0, 2.0), above=0)

    def check(self) -> None:
        if self.kind == "fancy" and self.count < 2:
            raise UserError(f"{self.label('count')} must be at least 2 for fancy, not {self.count}")


def test_a_plugin_is_a_frozen_dataclass_that_knows_its_name():
    example = Example(count=4)
    assert example.settings() == {
        "weight": 2.0, "count": 4, "kind": "plain", "switch": False, "parts": (1.0, 2.0)
    }
    assert Example.name == "Example_One"
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.count = 5


def test_text_becomes_the_declared_type():
    example = create(
        PLUGINS, "example-one(weight=3,count=5,kind=fancy,switch=true,parts=4;5.5)"
    )
    assert example.settings() == {
        "weight": 3.0, "count": 5, "kind": "fancy", "switch": True, "parts": (4.0, 5.5)
    }
    assert type(example.weight) is float
    assert create(PLUGINS, "Example_One(weight=none)").weight is None
    assert create(PLUGINS, "Example_One(count=5)", count="6", weight=7).settings() == (
        Example(count=5, weight=7.0).settings()
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("(weight=0)", "Example_One: weight must be above 0, not 0.0"),
        ("(weight=nan)", "Example_One: weight must be a finite number, not nan"),
        ("(weight=much)", "Example_One: weight must be a number, not 'much'"),
        ("(count=0)", "Example_One: count must be from 1 to 9, not 0"),
        ("(count=1.5)", "Example_One: count must be a whole number, not '1.5'"),
        ("(switch=maybe)", "Example_One: switch must be true or false, not 'maybe'"),
        ("(kind=fance)", "Example_One: kind: unknown value 'fance' .did you mean 'fancy'"),
        ("(parts=1;-2)", "Example_One: parts must be above 0, not -2.0"),
        ("(kind=fancy,count=1)", "Example_One: count must be at least 2 for fancy, not 1"),
        ("(wight=1)", "Example_One has no hyper-parameter 'wight' .did you mean 'weight'"),
        ("(weight)", r"cannot read the example 'Example_One\(weight\)'"),
        ("(count=1,count=2)", "gives a hyper-parameter twice"),
    ],
)
def test_wrong_values_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        create(PLUGINS, f"Example_One{given}")


def test_values_from_python_are_checked_alike():
    for wrong in ({"count": True}, {"count": 2.5}, {"weight": "x"}, {"kind": 3}, {"parts": 1.0}):
        with pytest.raises(UserError, match=f"Example_One: {next(iter(wrong))} must be"):
            Example(**wrong)
    assert Example(weight=1).weight == 1.0 and type(Example(weight=1).weight) is float


def test_specifications():
    assert split("None, A(b=1,c=2),D") == ["None", "A(b=1,c=2)", "D"]
    assert parse(PLUGINS, " example_one ( count = 2 ) ") == ("Example_One", {"count": "2"})
    assert spelled(PLUGINS, "EXAMPLE-ONE( count = 2 )") == "Example_One(count=2)"
    with pytest.raises(UserError, match="unknown example 'Exampel_One' .did you mean"):
        parse(PLUGINS, "Exampel_One")


def test_summands_of_a_sum():
    assert summands("One") == ["One"]
    assert summands("One(weight=1e+2)+ Two") == ["One(weight=1e+2)", "Two"]
    for wrong in ("One+", "+One", "One++Two"):
        with pytest.raises(UserError, match="with nothing to add"):
            summands(wrong)


def test_descriptions_are_read_from_the_docstring():
    described = described_fields(Example)
    assert described["weight"] == "of the loss."
    assert described["parts"] == "two numbers that are described over two lines."
    assert described["count"] == described["parts"]


def test_any_other_annotation_takes_every_value():
    marker = object()
    assert convert(marker, object, "x") is marker
