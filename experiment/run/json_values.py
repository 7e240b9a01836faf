"""Whether values that were read from JSON are of the types that a reader expects."""

from __future__ import annotations

import math
import types
import typing
from typing import Any

_LARGEST_INTEGER = 2**63


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` is of the type that an annotation names.

    Args:
        value: as `json.loads` gives it.
        kind: ``str``, ``bool``, ``int``, ``float`` (finite, or a whole number), ``None``,
            ``Any``, ``list[T]``, ``dict[str, T]``, a `typing.TypedDict` (further entries do not
            matter), or a union of these.
    """
    if kind is Any:
        return True
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind)
        return isinstance(value, dict) and all(
            name in value and fits(value[name], each) for name, each in hints.items()
        )
    if typing.get_origin(kind) is dict:
        return isinstance(value, dict) and all(fits(each, arguments[1]) for each in value.values())
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(fits(each, arguments[0]) for each in value)
    if kind in (None, types.NoneType):
        return value is None
    if kind in (int, float):
        return _is_number(value, kind)
    return isinstance(value, kind)


def _is_number(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return abs(value) < _LARGEST_INTEGER
    return kind is float and isinstance(value, float) and math.isfinite(value)
