"""Declarations that everything with settings shares: methods, tasks, balances, regularizers,
ensembles, targets, and the settings of the scripts.

    @register("AT")
    class AT(Method):                        # `Method` is a `Plugin`
        weight: float = option(100.0, above=0)

A plug-in is an immutable dataclass. Its fields are its hyper-parameters: each becomes a flag of its
own type, can be written as ``AT(weight=100)``, and is checked when the plug-in is made.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, dataclass_transform

from registry import Registry, UserError, nearest

LARGEST_COUNT = 2**31 - 1  # more than anything counted here, and fits every type that counts
_SPECIFICATION = re.compile(r"\s*([^()\s]+)\s*(?:\((.*)\))?\s*")
_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


# Declaring


def option(
    default: Any,
    help: str = "",  # noqa: A002 (the word that argparse and absl use)
    *,
    group: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: Sequence[str] | None = None,
    same_run: bool = False,
    is_path: bool = False,
) -> Any:
    """A field that can be set.

    Args:
        default: its type is the field's annotation; None: not set.
        help: what it is, with unit and range. A plug-in leaves it empty and describes its fields
            in the docstring under ``Args:``.
        group: the heading under which ``--help`` lists a script's flag.
        minimum, maximum: inclusive bounds of a number.
        above: exclusive lower bound.
        choices: the words that are allowed.
        same_run: a run may continue under another value, so the run folder does not compare it.
        is_path: it names a file or folder, or may: a ``~`` before it is the home folder, also where
            no shell has seen it.
    """
    facts = {
        "help": help, "group": group, "minimum": minimum, "maximum": maximum, "above": above,
        "choices": choices, "same_run": same_run, "is_path": is_path,
    }
    return dataclasses.field(default=default, metadata=facts)


@dataclass_transform(frozen_default=True, field_specifiers=(option, dataclasses.field))
class Plugin:
    """Base of all plug-ins: every subclass is a frozen dataclass whose values are checked.

    Attributes:
        name: the name under which it is registered, or else the class's.
        paper: where it was published.

    Raises:
        UserError: when an instance is made with a value of the wrong type or out of its range.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        cls.name = cls.__name__  # until it is registered
        dataclasses.dataclass(frozen=True, eq=False)(cls)

    def __post_init__(self) -> None:
        kinds = field_types(type(self))
        for field in dataclasses.fields(self):
            value = convert(getattr(self, field.name), kinds[field.name], self.label(field.name))
            object.__setattr__(self, field.name, value)
            check(self.label(field.name), value, field.metadata)
        self.check()

    def check(self) -> None:
        """Raise UserError where values do not fit each other. Overridden where that can happen."""

    def label(self, field: str) -> str:
        """A hyper-parameter's name for messages: ``AT: weight``."""
        return f"{self.name}: {field}"

    def settings(self) -> dict[str, Any]:
        """The hyper-parameters with their values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def hyper_parameters(cls) -> dict[str, dataclasses.Field]:
        """The hyper-parameters by name."""
        return {field.name: field for field in dataclasses.fields(cls)}


def field_types(declared: type) -> dict[str, Any]:
    """The annotated type of each field of a dataclass, by name."""
    return _field_types(declared)


@functools.cache
def _field_types(declared: type) -> dict[str, Any]:
    hints = typing.get_type_hints(declared)
    return {field.name: hints[field.name] for field in dataclasses.fields(declared)}


def described_fields(declared: type) -> dict[str, str]:
    """What the docstring of a class says of each field under ``Args:``."""
    arguments = (inspect.getdoc(declared) or "").partition("\nArgs:\n")[2]
    arguments = arguments.partition("\n\n")[0]
    found = re.findall(r"^    ([\w, ]+): (.+(?:\n     +.+)*)", arguments, re.MULTILINE)
    return {
        name: " ".join(text.replace("`", "").split())
        for names, text in found for name in names.split(", ")
    }


# Checking


def convert(value: Any, kind: Any, label: str) -> Any:
    """`value`, which may be text, as the type that an annotation names.

    Args:
        value: a Python value, or text as written on the command line. ``1;2;3`` is a tuple.
        kind: ``int``, ``float``, ``bool``, ``str``, ``tuple[T, ...]``, or one of these ``| None``.
            Any other annotation accepts every value.
        label: names the value in the error.

    Raises:
        UserError: the value is of another type.
    """
    if isinstance(kind, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        kind = next(each for each in kind.__args__ if each is not type(None))
    if typing.get_origin(kind) is tuple:
        parts = [part for part in value.split(";") if part] if isinstance(value, str) else value
        if not isinstance(parts, Sequence):
            raise UserError(f"{label} must be a list, such as 1;2;3, not {value!r}")
        return tuple(convert(part, typing.get_args(kind)[0], label) for part in parts)
    if kind not in _KINDS:
        return value
    try:
        converted = _as_kind(value, kind)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise UserError(f"{label} must be {_KINDS[kind]}, not {value!r}") from None
    return converted


def _as_kind(value: Any, kind: type) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else _BOOLS[str(value).lower()]
    if kind is str:
        if not isinstance(value, str):
            raise TypeError
        return value
    if isinstance(value, bool):
        raise TypeError
    if kind is int and not isinstance(value, str) and int(value) != value:
        raise ValueError
    return kind(value)


def check(label: str, value: Any, facts: Mapping[str, Any]) -> None:
    """Raise UserError where a value is out of the range that `option` states.

    Args:
        label: names the value in the error, such as ``AT: weight`` or ``--epochs``.
        value: None passes; of a tuple each element is checked.
        facts: the field's metadata.
    """
    if isinstance(value, tuple):
        for each in value:
            check(label, each, facts)
        return
    if value is None or not facts:
        return
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_range(label, value, facts)
    if facts["choices"] and value not in facts["choices"]:
        raise UserError(
            f"{label}: unknown value {value!r}{nearest(value, facts['choices'])}; "
            f"expected one of {', '.join(facts['choices'])}"
        )


def _check_range(label: str, value: float, facts: Mapping[str, Any]) -> None:
    if not math.isfinite(value):
        raise UserError(f"{label} must be a finite number, not {value}")
    if isinstance(value, int) and value > LARGEST_COUNT:
        raise UserError(f"{label} must be at most {LARGEST_COUNT}, not {value}")
    low, high, above = facts["minimum"], facts["maximum"], facts["above"]
    if low is not None and high is not None and not low <= value <= high:
        raise UserError(f"{label} must be from {low} to {high}, not {value}")
    if low is not None and value < low:
        raise UserError(f"{label} must be at least {low}, not {value}")
    if high is not None and value > high:
        raise UserError(f"{label} must be at most {high}, not {value}")
    if above is not None and value <= above:
        raise UserError(f"{label} must be above {above}, not {value}")


# Writing: NAME, NAME(hyper_parameter=value,...)


def split(specifications: str, mark: str = ",") -> list[str]:
    """``"None,SSKD_SVD(num_dfv=2,solver=svd)"`` at the commas, or another `mark`, outside of
    parentheses."""
    return [part for part in _split(specifications, mark) if part]


def summands(specification: str) -> list[str]:
    """The members of a sum such as ``"AT+DKD(weight=2)"``; of anything else, itself.

    Raises:
        UserError: there is nothing before or after a ``+``.
    """
    parts = _split(specification, "+")
    if len(parts) > 1 and not all(parts):
        raise UserError(f"{specification!r} has a + with nothing to add: expected NAME+NAME")
    return parts


def _split(specifications: str, mark: str) -> list[str]:
    parts = re.split(rf"{re.escape(mark)}(?![^(]*\))", specifications)
    return [part.strip() for part in parts]


def parse(registry: Registry, specification: str) -> tuple[str, dict[str, str]]:
    """The registered name in ``NAME`` or ``NAME(hyper_parameter=value,...)``, and values as text.

    Raises:
        UserError: the text is not of that form, a hyper-parameter is given twice, or the name is
            unknown.
    """
    match = _SPECIFICATION.fullmatch(specification)
    inside = match[2] if match else None
    settings = [part.partition("=") for part in inside.split(",")] if inside else []
    if not match or not all(name.strip() and sign for name, sign, _ in settings):
        raise UserError(
            f"cannot read the {registry.kind} {specification!r}; expected NAME or "
            "NAME(hyper_parameter=value,...)"
        )
    given = {name.strip(): value.strip() for name, _, value in settings}
    if len(given) < len(settings):
        raise UserError(f"{specification!r} gives a hyper-parameter twice; give it once")
    return registry.name(match[1]), given


def spelled(registry: Registry, specification: str) -> str:
    """`specification` with its name as it is registered and without spaces. Raises UserError as
    `parse`."""
    name, given = parse(registry, specification)
    inside = ",".join(f"{key}={value}" for key, value in given.items())
    return f"{name}({inside})" if given else name


def create(registry: Registry, specification: str, **further: Any) -> Any:
    """The plug-in that `specification` describes.

    Args:
        specification: ``NAME`` or ``NAME(hyper_parameter=value,...)``.
        **further: hyper-parameters by name, values or text; what `specification` says wins.

    Raises:
        UserError: see `parse`; or there is no such hyper-parameter, or its value is wrong.
    """
    name, given = parse(registry, specification)
    return configured(registry.get(name), name, {**further, **given})


def configured(plugin: type[Plugin], name: str, given: Mapping[str, Any]) -> Any:
    """An instance of `plugin` with the hyper-parameters `given`, values or text.

    Raises:
        UserError: there is no such hyper-parameter, or its value is wrong.
    """
    known = plugin.hyper_parameters()
    for key in given:
        if key not in known:
            raise UserError(
                f"{name} has no hyper-parameter {key!r}{nearest(key, known)}; it has: "
                f"{', '.join(known) or 'none'}"
            )
    return plugin(**given)
