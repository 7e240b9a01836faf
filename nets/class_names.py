"""The names of a network's classes, kept in its ``.keras`` file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from registry import UserError

MEMBER = "classes.txt"  # in the archive; Keras passes over it


def write_class_names(path: str | os.PathLike, names: Sequence[str]) -> None:
    """Add the names of the classes to a ``.keras`` file.

    Args:
        path: the file, as Keras saved it.
        names: in the order of the logits, one line each.

    Raises:
        UserError: there is no such file, or it is of another kind, which cannot hold names.
    """
    if Path(path).suffix != ".keras" or not zipfile.is_zipfile(path):
        raise UserError(
            f"{os.fspath(path)} cannot be given the names of its classes: expected a .keras file "
            "as model.save writes it"
        )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(MEMBER, class_lines(names))


def read_class_names(path: str | os.PathLike) -> tuple[str, ...] | None:
    """The names of the classes in a file; None where it does not say. Raises UserError where they
    are damaged."""
    if Path(path).suffix != ".keras":
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            if MEMBER not in archive.namelist():
                return None
            return tuple(archive.read(MEMBER).decode("utf-8").split("\n")[:-1])
    # What unpacking a damaged member raises, of several kinds.
    except Exception as error:
        cause = " ".join(str(error).split())[:150]
        raise UserError(
            f"{path}: the names of its classes are damaged ({cause}): copy or save it again"
        ) from error


def class_lines(names: Sequence[str]) -> str:
    """A line for each class; a line break within a name becomes a space."""
    return "".join(f"{' '.join(name.splitlines()) or ' '}\n" for name in names)
