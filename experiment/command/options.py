"""Settings of a script, each stated once: a dataclass field is a flag, its default and its help.

    @dataclass(frozen=True)
    class Settings:
        epochs: int = option(20, "passes over the training images", group="training", minimum=1)

    define_flags(Settings)          # --epochs
    settings = from_flags(Settings)

Modules may define further flags by absl; ``module_name`` is their group.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import textwrap
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from absl import flags

from registry import UserError, nearest

Options = TypeVar("Options")
_WIDTH = 80
_INDENT = 4
_LARGEST = 2**31 - 1  # more than anything that is counted here, and fits all that count


def option(
    default: Any,
    help: str,  # noqa: A002 (the word that argparse and absl use)
    *,
    group: str,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: Sequence[str] | None = None,
    same_run: bool = False,
) -> Any:
    """A field that is a flag.

    Args:
        default: None: not set.
        help: what it is, units and range included.
        group: the heading under which ``--help`` lists it.
        minimum, maximum, above: bounds of a number; the last one is excluded itself.
        choices: the words that are allowed.
        same_run: a run may be gone on with under another value, so it is not among the settings
            that a run folder compares.
    """
    facts = {
        "help": help, "group": group, "minimum": minimum, "maximum": maximum, "above": above,
        "choices": choices, "same_run": same_run,
    }
    return dataclasses.field(default=default, metadata=facts)


def define_flags(options: type) -> None:
    """Define a flag for each field of `options`. Tuples are comma-separated lists."""
    kinds = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        define = {
            int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool,
            str: flags.DEFINE_string, tuple: flags.DEFINE_list,
        }[_kind(kinds[field.name])]
        help_text = field.metadata["help"]
        if field.metadata["choices"]:
            help_text += f" ({' | '.join(field.metadata['choices'])})"
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        define(field.name, default, help_text, module_name=field.metadata["group"])
        expected = {int: "a whole number", float: "a number", bool: "true or false"}
        kind = _kind(kinds[field.name])
        if kind in expected:
            flag = flags.FLAGS[field.name]
            flag.parser = _Parser(flag.parser, expected[kind])


class _Parser(flags.ArgumentParser):
    """Another parser, with words of ours for what it refuses."""

    def __init__(self, parser: flags.ArgumentParser, expected: str):
        super().__init__()
        self._parser, self._expected = parser, expected
        self.syntactic_help = parser.syntactic_help

    def parse(self, argument: Any) -> Any:
        try:
            return self._parser.parse(argument)
        except (ValueError, TypeError):
            raise ValueError(f"expected {self._expected}") from None

    def flag_type(self) -> str:
        return self._parser.flag_type()


def from_flags(options: type[Options]) -> Options:
    """The options as the command line gives them. One that need not be set is not where it is
    empty, so that ``--teacher=`` takes back what a flagfile says.

    Raises:
        UserError: a number out of its range or not finite, or a word that is not among the choices.
    """
    values = {}
    for field in dataclasses.fields(options):
        value = flags.FLAGS[field.name].value
        if isinstance(value, list):
            value = tuple(value)
        if field.default is None and value in ("", ()):
            value = None
        values[field.name] = value
        _check(field.name, value, field.metadata)
    return options(**values)


def _kind(annotation: Any) -> type:
    """The type in ``T`` or ``T | None``."""
    if isinstance(annotation, types.UnionType):
        annotation = next(kind for kind in annotation.__args__ if kind is not type(None))
    return typing.get_origin(annotation) or annotation


def _check(name: str, value: Any, facts: Any) -> None:
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"--{name} is {value}; expected a finite number")
    for bound, wrong, words in (
        (facts["minimum"], lambda: value < facts["minimum"], "at least"),
        (facts["maximum"], lambda: value > facts["maximum"], "at most"),
        (facts["above"], lambda: value <= facts["above"], "above"),
    ):
        if bound is not None and wrong():
            raise UserError(f"--{name} is {value}; expected {words} {bound}")
    if isinstance(value, int) and value > _LARGEST:
        raise UserError(f"--{name} is {value}; expected at most {_LARGEST}")
    if facts["choices"] and value not in facts["choices"]:
        raise UserError(
            f"unknown --{name} {value!r}{nearest(value, facts['choices'])}; "
            f"expected one of {', '.join(facts['choices'])}"
        )


def compared(options: Any) -> dict[str, Any]:
    """The options that determine a run: those that its folder compares with a later call's."""
    return {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if not field.metadata["same_run"]
    }


def documented(described: type) -> dict[str, str]:
    """What the docstring of a class says under ``Args:``, by name: the help of flags that are made
    of its fields."""
    arguments = (inspect.getdoc(described) or "").partition("\nArgs:\n")[2]
    arguments = arguments.partition("\n\n")[0]
    found = re.findall(r"^    ([\w, ]+): (.+(?:\n     +.+)*)", arguments, re.MULTILINE)
    return {
        name: " ".join(text.replace("`", "").split())
        for names, text in found for name in names.split(", ")
    }


def help_text(description: str) -> str:
    """All flags that scripts define, by group, at most 80 columns wide.

    Args:
        description: the script's docstring, shown first.
    """
    lines = [description.strip(), ""]
    for group, defined in flags.FLAGS.flags_by_module_dict().items():
        if "." in group or "/" in group or group.startswith("absl"):
            continue  # absl's own
        lines.append(f"{group}:")
        for flag in defined:
            default = (flag.default_as_str or "").strip("'")
            default = f" (default {default})" if default else ""
            lines.append(f"  --{flag.name}{default}")
            parts = flag.help.splitlines()
            hanging = " " * (_INDENT if len(parts) == 1 else 2 * _INDENT)
            for part in parts:
                lines += textwrap.wrap(
                    part, _WIDTH, initial_indent=" " * _INDENT, subsequent_indent=hanging
                )
        lines.append("")
    return "\n".join([
        *lines,
        "--noNAME turns a switch off, an empty --NAME= takes back what was set before it.",
        "--flagfile FILE reads flags from a file, one a line; # begins a comment.",
    ])
