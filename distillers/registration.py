"""The register of distillation methods, and how a person writes them."""

from __future__ import annotations

import re
from typing import Any

from registry import Registry, UserError

METHODS = Registry("distillation method")
register = METHODS.register

_SPECIFICATION = re.compile(r"\s*([^()\s]+)\s*(?:\((.*)\))?\s*")


def get(name: str) -> type[Any]:
    """The method's class. Raises `registry.UserError`, naming the nearest, for an unknown name."""
    return METHODS.get(name)


def name_of(method: type[Any]) -> str:
    """The name under which a method's class was registered, or else the class's own."""
    return next((name for name in names() if get(name) is method), method.__name__)


def names() -> list[str]:
    """Names of all methods."""
    return METHODS.names()


def split(specifications: str) -> list[str]:
    """``"None,SSKD_SVD(num_dfv=2,solver=svd)"`` at the commas outside of parentheses."""
    parts = re.split(r",(?![^(]*\))", specifications)
    return [part.strip() for part in parts if part.strip()]


def parse(specification: str) -> tuple[str, dict[str, str]]:
    """A method as a person writes it: ``NAME`` or ``NAME(hyper_parameter=value,...)``.

    Returns:
        The name as it is registered, and the hyper-parameters as text.

    Raises:
        UserError: not of that form, or an unknown method.
    """
    match = _SPECIFICATION.fullmatch(specification)
    settings = [part.partition("=") for part in (match[2] or "").split(",")] if match else []
    if not match or (match[2] and not all(name.strip() and sign for name, sign, _ in settings)):
        raise UserError(
            f"cannot read the method {specification!r}; expected NAME or NAME(setting=value,...)"
        )
    given = {name.strip(): value.strip() for name, _, value in settings} if match[2] else {}
    return METHODS.name(match[1]), given


def create(specification: str, **further: Any) -> Any:
    """The method that `specification` describes, with `further` hyper-parameters.

    Raises:
        UserError: see `parse`; or the method has no such hyper-parameter.
    """
    name, given = parse(specification)
    return get(name).configured(name, **{**further, **given})
