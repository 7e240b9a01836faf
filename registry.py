"""Names for things that are written in files of their own, and errors for people.

A network, a data source or a distillation method makes itself known by a decorator in the file
where it is written; a lookup by a wrong name suggests the nearest right one.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any


class UserError(ValueError):
    """A mistake by the user, reported in one line: what was given, what was
    expected, what to do. Scripts print it without a traceback and exit with status 2."""


def plain(name: str) -> str:
    """`name` without case, hyphens and underscores: the form in which names are compared."""
    return name.replace("-", "").replace("_", "").lower()


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint ` (did you mean 'X'?)` with the member of `names` nearest to `name`, or ``""``."""
    by_plain = {plain(known): known for known in names}
    found = difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=0.5)
    return f" (did you mean {by_plain[found[0]]!r}?)" if found else ""


class Registry:
    """Things of one kind by name, with facts that each declares about itself.

    Args:
        kind: what an entry is called in error messages, such as ``"network"``.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, tuple[str, Any, dict[str, Any]]] = {}

    def register(self, name: str, **facts: Any) -> Callable[[Any], Any]:
        """Decorator that makes its target known as `name`, with `facts` about it.

        Raises:
            ValueError: another entry has this name already (names differ in more than case).
        """

        def add(target: Any) -> Any:
            if plain(name) in self._entries:
                raise ValueError(f"a {self.kind} named {name!r} is registered already")
            is_known = any(target is known for _, known, _ in self._entries.values())
            if isinstance(target, type) and not is_known:
                target.name = name  # the first, where it has several
            self._entries[plain(name)] = (name, target, facts)
            return target

        return add

    def _entry(self, name: str) -> tuple[str, Any, dict[str, Any]]:
        if plain(name) not in self._entries:
            raise UserError(
                f"unknown {self.kind} {name!r}{nearest(name, self.names())}; "
                f"known: {', '.join(sorted(self.names(), key=str.lower))}"
            )
        return self._entries[plain(name)]

    def get(self, name: str) -> Any:
        """What was registered as `name` (case, ``-`` and ``_`` do not matter).

        Raises:
            UserError: nothing of that name; the message names the nearest one.
        """
        return self._entry(name)[1]

    def facts(self, name: str) -> dict[str, Any]:
        """The facts declared with `name`. Raises UserError like `get`."""
        return dict(self._entry(name)[2])

    def name(self, name: str) -> str:
        """`name` spelled as it was registered. Raises UserError like `get`."""
        return self._entry(name)[0]

    def __contains__(self, name: str) -> bool:
        return plain(name) in self._entries

    def names(self) -> list[str]:
        """All names, in the order in which they were registered."""
        return [name for name, _, _ in self._entries.values()]


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that what they register is known.

    Args:
        package: the package's ``__name__``.
        path: its ``__path__``.
    """
    for module in sorted(info.name for info in pkgutil.iter_modules(path)):
        importlib.import_module(f"{package}.{module}")
