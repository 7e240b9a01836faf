"""The register of distillation methods."""

from __future__ import annotations

from typing import Any

from registry import Registry

METHODS = Registry("distillation method")
register = METHODS.register


def get(name: str) -> type[Any]:
    """The method's class. Raises `registry.UserError`, naming the nearest, for an unknown name."""
    return METHODS.get(name)


def names() -> list[str]:
    """Names of all methods."""
    return METHODS.names()
