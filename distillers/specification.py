"""Parse users' specifications of methods: ``NAME``, ``NAME(hyper_parameter=value,...)``, sums."""

from __future__ import annotations

import dataclasses
from typing import Any

import plugins
from distillers.method import Method
from distillers.registration import METHODS, get
from distillers.sum import Sum
from plugins import summands
from registry import UserError, nearest


def parse(specification: str) -> list[tuple[str, dict[str, str]]]:
    """Parse ``NAME``, ``NAME(hyper_parameter=value,...)``, or a sum of them, ``NAME+NAME(...)``.

    Returns:
        For each method, its registered name and its hyper-parameters as text.

    Raises:
        UserError: a syntax error, or an unknown method.
    """
    return [plugins.parse(METHODS, part) for part in summands(specification)]


def spelled(specification: str) -> str:
    """`specification` with registered names and without spaces.

    Raises:
        UserError: see `parse`.
    """
    parts = summands(specification)
    return "+".join(plugins.spelled(METHODS, part) for part in parts)


def hyper_parameters(specification: str) -> dict[str, dataclasses.Field]:
    """The fields of all hyper-parameters of a method or sum, by name."""
    return {
        key: field
        for name, _ in parse(specification) for key, field in get(name).hyper_parameters().items()
    }


def create(specification: str, **further: Any) -> Method | Sum:
    """The method that `specification` describes, with `further` hyper-parameters.

    Args:
        specification: see `parse`. Its hyper-parameters take precedence.
        **further: values or text, each for the method that has this hyper-parameter.

    Raises:
        UserError: see `parse`; or no method, or several methods of a sum, have a hyper-parameter.
    """
    parts = parse(specification)
    if len(parts) == 1:
        ((name, given),) = parts
        return plugins.configured(get(name), name, {**further, **given})
    owners = {
        key: [name for name, _ in parts if key in get(name).hyper_parameters()] for key in further
    }
    for key, names in owners.items():
        if not names:
            known = hyper_parameters(specification)
            raise UserError(
                f"none of {specification} has a hyper-parameter {key!r}{nearest(key, known)}; they "
                f"have: {', '.join(known) or 'none'}"
            )
        if len(names) > 1:
            raise UserError(
                f"{' and '.join(names)} both have {key!r}: give it with one of them, as in "
                f"{names[0]}({key}={further[key]})"
            )
    return Sum([
        plugins.configured(
            get(name), name, {**{k: v for k, v in further.items() if name in owners[k]}, **given}
        )
        for name, given in parts
    ])
