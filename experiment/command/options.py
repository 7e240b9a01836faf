"""Settings of a script. Each is declared once: a field defines a flag, its default and its help.

    @dataclass(frozen=True)
    class Settings(Options):
        epochs: int = option(20, "passes over the training images", group="training", minimum=1)

    define_flags(Settings)          # --epochs
    settings = from_flags(Settings)

`Settings(epochs=0)` is refused just like ``--epochs=0``. Modules may define more flags with absl;
``module_name`` is their group in ``--help``.
"""

from __future__ import annotations

import dataclasses
import os
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from absl import flags

from plugins import check, convert, field_types, option
from registry import UserError

__all__ = [
    "Options", "as_flags", "base_type", "compared", "define_flag", "define_flags", "flag",
    "from_flags", "help_text", "option", "values",
]
_WIDTH = 80
_INDENT = 4
_DEFINE = {
    int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool,
    str: flags.DEFINE_string, tuple: flags.DEFINE_list,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """The base class of a script's settings, which are the fields of a frozen dataclass.

    Raises:
        UserError: a value has the wrong type or is out of range.
    """

    def __post_init__(self) -> None:
        kinds = field_types(type(self))
        for field in dataclasses.fields(self):
            label = f"--{field.name}"
            value = _separated(getattr(self, field.name), kinds[field.name])
            value = convert(value, kinds[field.name], label)
            _check_encoding(label, value)
            if field.metadata.get("is_path"):
                value = _with_home(value)
            if isinstance(value, Mapping):
                value = types.MappingProxyType(dict(value))
            object.__setattr__(self, field.name, value)
            check(label, value, field.metadata)


def _check_encoding(label: str, value: Any) -> None:
    """Raise UserError for text that cannot be printed: a file's name in another encoding."""
    for text in value if isinstance(value, tuple) else (value,):
        try:
            str(text).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{label}: {os.fsencode(text)!r} is not in UTF-8: rename it, or give a link to it"
            ) from None


def _with_home(value: Any) -> Any:
    """A path, or several, or None, with the home folder in place of ``~``; also in
    ``KIND:~/path``."""
    if isinstance(value, tuple):
        return tuple(map(_with_home, value))
    if not isinstance(value, str):
        return value
    kind, colon, path = ("", "", value) if value.startswith("~") else value.partition(":")
    return f"{kind}{colon}{os.path.expanduser(path)}"


def _separated(value: Any, kind: Any) -> Any:
    """Text for a list, as it is written on the command line: ``"a,b"`` is a and b."""
    if base_type(kind) is not tuple or not isinstance(value, str) or "," not in value:
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


OptionsType = TypeVar("OptionsType", bound=Options)


def _flagged(options: type[Options] | Options) -> Iterator[dataclasses.Field]:
    """The fields that are flags: those declared with `option`."""
    return (field for field in dataclasses.fields(options) if field.metadata)


def define_flags(options: type[Options]) -> None:
    """Define a flag for each field of `options`. Tuples are comma-separated lists."""
    kinds = field_types(options)
    for field in _flagged(options):
        help_text = field.metadata["help"]
        if field.metadata["choices"]:
            help_text += f" ({' | '.join(field.metadata['choices'])})"
        define_flag(
            field.name, kinds[field.name], field.default, help_text, field.metadata["group"]
        )


def define_flag(name: str, kind: Any, default: Any, about: str, group: str) -> None:
    """Define one flag.

    Args:
        name: the name, without ``--``.
        kind: the type of its value, an annotation (see `plugins.convert`).
        default: the default; None means not set.
        about: the help text.
        group: the heading under which ``--help`` lists it.
    """
    plain_kind = base_type(kind)
    if plain_kind not in _DEFINE:
        raise TypeError(
            f"--{name}: its field must be int, float, bool, str or tuple[T, ...], or one of these "
            f"| None (for words: str with choices=), not {kind}"
        )
    default = list(default) if isinstance(default, tuple) else default
    _DEFINE[plain_kind](name, default, about, module_name=group)
    if plain_kind in (int, float, bool):
        defined = flags.FLAGS[name]
        defined.parser = _Parser(defined.parser, f"--{name}", kind, default)


def base_type(kind: Any) -> type:
    """The type in ``T`` or ``T | None``."""
    if isinstance(kind, types.UnionType):
        kind = next(each for each in kind.__args__ if each is not type(None))
    return typing.get_origin(kind) or kind


class _Parser(flags.ArgumentParser):
    """Parses values with `plugins.convert`, which also makes the error messages. An empty value is
    the default."""

    def __init__(self, parser: flags.ArgumentParser, label: str, kind: Any, default: Any):
        super().__init__()
        self.syntactic_help = parser.syntactic_help
        self._flag_type = parser.flag_type()
        self._label, self._kind, self._default = label, kind, default

    def parse(self, argument: Any) -> Any:
        if argument == "":
            return self._default
        return convert(argument, self._kind, self._label)

    def flag_type(self) -> str:
        return self._flag_type


def from_flags(options: type[OptionsType], **further: Any) -> OptionsType:
    """The options given on the command line.

    An empty flag resets a number to its default and empties a text, so ``--teacher=`` overrides a
    file of flags. A field without a flag keeps its default.

    Args:
        options: the dataclass.
        **further: values of fields that are not flags.

    Raises:
        UserError: a number is out of range or not finite, or a word is not among the choices.
    """
    values = dict(further)
    for field in _flagged(options):
        if field.name not in flags.FLAGS:
            continue
        value = flags.FLAGS[field.name].value
        value = tuple(value) if isinstance(value, list) else value
        values[field.name] = None if field.default is None and value in ("", ()) else value
    return options(**values)


def as_flags(options: Options, leave_out: typing.Container[str] = ()) -> list[str]:
    """The command-line arguments for these options, omitting those with default values.

    Args:
        options: the options.
        leave_out: names of further fields to omit.
    """
    words = []
    for field in _flagged(options):
        value = getattr(options, field.name)
        if value != field.default and field.name not in leave_out:
            words.append(flag(field.name, value))
    return words


def flag(name: str, value: Any) -> str:
    """The command-line argument that sets a flag: ``--epochs=3`` or ``--noflip``."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return f"--{name}={'' if text is None else text}"


def values(options: Options) -> dict[str, Any]:
    """All options by name."""
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}


def compared(options: Options) -> dict[str, Any]:
    """The options that determine a run. Resuming compares them with those in the run's folder."""
    return {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options) if not field.metadata.get("same_run")
    }


def help_text(description: str) -> str:
    """The help for all of a script's flags, by group, at most 80 columns wide.

    Args:
        description: the script's docstring, shown first.
    """
    lines = [description.strip(), ""]
    for group, defined in flags.FLAGS.flags_by_module_dict().items():
        if "." in group or "/" in group or group.startswith("absl"):
            continue  # absl's own
        lines.append(f"{group}:")
        for each in defined:
            lines += _flag_help(each)
        lines.append("")
    return "\n".join([
        *lines,
        "--noNAME turns a switch off. --NAME= resets a number and empties a text.",
        "--flagfile FILE reads flags from a file, one per line; # starts a comment.",
    ])


def _flag_help(described: flags.Flag) -> list[str]:
    default = (described.default_as_str or "").strip("'")
    lines = [f"  --{described.name}" + (f" (default {default})" if default else "")]
    parts = described.help.splitlines()
    hanging = " " * (_INDENT if len(parts) == 1 else 2 * _INDENT)
    for part in parts:
        lines += textwrap.wrap(
            part, _WIDTH, initial_indent=" " * _INDENT, subsequent_indent=hanging
        )
    return lines
