"""Methods as a person writes them: ``NAME``, ``NAME(hyper_parameter=value,...)``, and sums."""

from __future__ import annotations

import re
from typing import Any

from distillers.method import Method
from distillers.registration import METHODS, get
from distillers.sum import Sum
from registry import UserError, nearest

_SPECIFICATION = re.compile(r"\s*([^()\s]+)\s*(?:\((.*)\))?\s*")


def split(specifications: str, mark: str = ",") -> list[str]:
    """``"None,SSKD_SVD(num_dfv=2,solver=svd)"`` at the commas, or another `mark`, outside of
    parentheses."""
    parts = re.split(rf"{re.escape(mark)}(?![^(]*\))", specifications)
    return [part.strip() for part in parts if part.strip()]


def parse(specification: str) -> list[tuple[str, dict[str, str]]]:
    """A method as a person writes it, ``NAME`` or ``NAME(hyper_parameter=value,...)``, or a sum of
    them, ``NAME+NAME(...)``.

    Returns:
        Of each method the name as it is registered, and the hyper-parameters as text.

    Raises:
        UserError: not of that form, or an unknown method.
    """
    return [_parse_one(part) for part in split(specification, "+") or [specification]]


def _parse_one(specification: str) -> tuple[str, dict[str, str]]:
    match = _SPECIFICATION.fullmatch(specification)
    settings = [part.partition("=") for part in (match[2] or "").split(",")] if match else []
    if not match or (match[2] and not all(name.strip() and sign for name, sign, _ in settings)):
        raise UserError(
            f"cannot read the method {specification!r}; expected NAME or NAME(setting=value,...)"
        )
    given = {name.strip(): value.strip() for name, _, value in settings} if match[2] else {}
    return METHODS.name(match[1]), given


def spelled(specification: str) -> str:
    """`specification` with names as they are registered and without spaces. Raises UserError as
    `parse`."""
    texts = []
    for name, given in parse(specification):
        inside = ",".join(f"{key}={value}" for key, value in given.items())
        texts.append(f"{name}({inside})" if given else name)
    return "+".join(texts)


def hyper_parameters(specification: str) -> dict[str, Any]:
    """The fields of the hyper-parameters of a method, or of all methods of a sum, by name."""
    return {
        key: field
        for name, _ in parse(specification) for key, field in get(name).hyper_parameters().items()
    }


def create(specification: str, **further: Any) -> Method:
    """The method that `specification` describes, with `further` hyper-parameters; of a sum each
    method gets those that it has.

    Raises:
        UserError: see `parse`; or no method has such a hyper-parameter.
    """
    parts = parse(specification)
    if len(parts) == 1:
        ((name, given),) = parts
        return get(name).configured(name, **{**further, **given})
    known = hyper_parameters(specification)
    for key in further:
        if key not in known:
            raise UserError(
                f"none of {specification} has a hyper-parameter {key!r}{nearest(key, known)}; they "
                f"have: {', '.join(known) or 'none'}"
            )
    members = []
    for name, given in parts:
        own = {key: v for key, v in further.items() if key in get(name).hyper_parameters()}
        members.append(get(name).configured(name, **{**own, **given}))
    return Sum(tuple(members))
