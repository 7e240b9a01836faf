"""Model files are looked through before they are read.

A file can come from anywhere. HDF5 can name other files of the machine in place of numbers, and an
archive or a data set can claim sizes that no memory holds.
"""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import h5py

from registry import UserError

from .memory import check_memory, in_words

_BOMB_BYTES = 64_000_000
_BOMB_RATIO = 100
"""Numbers of networks are hardly compressible: something that claims more than `_BOMB_BYTES`, and
so many times what the file holds of it, is made to exhaust memory."""

_REDUCE = "give a file that holds what it claims, or a smaller model"


def check_regular(path: Path) -> None:
    """Raise UserError unless `path` is a regular file: a pipe or a device may never end."""
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if not path.is_file():
        raise UserError(f"{path} is not a regular file: give a model file")


def check_h5(file: h5py.File, path: Path) -> None:
    """Raise UserError where an HDF5 file names other files, or claims more numbers than it holds.

    Nothing is read but the file's structure, and no link is followed out of it.

    Args:
        file: open for reading.
        path: what it is called in messages.
    """
    seen: set[int] = set()
    waiting: list[h5py.Group] = [file]
    total = 0
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise _foreign(path, f"{group.name}/{name}", "a link")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                total += _checked_size(item, path)
    check_memory(total, f"the numbers that {path} claims", _REDUCE)


def _checked_size(data: h5py.Dataset, path: Path) -> int:
    """The bytes that a data set takes in memory; raises UserError where it must not be read."""
    if data.external:
        raise _foreign(path, data.name, "external storage")
    if data.is_virtual:
        raise _foreign(path, data.name, "a virtual data set")
    size = math.prod(data.shape or ()) * data.dtype.itemsize
    _check_ratio(size, data.id.get_storage_size(), f"{path}: {data.name}")
    return size


def _foreign(path: Path, name: str, kind: str) -> UserError:
    return UserError(
        f"{path} is refused: {name.lstrip('/')} is {kind}, whose numbers lie in another place, "
        "perhaps in any file of this machine; save the weights anew, in one file"
    )


def _check_ratio(claimed: int, stored: int, what: str) -> None:
    if claimed > _BOMB_BYTES and claimed > _BOMB_RATIO * stored:
        raise UserError(
            f"{what} claims {in_words(claimed)}, of which the file holds {in_words(stored)}: "
            f"{_REDUCE}"
        )


def check_archive(path: Path) -> None:
    """Raise UserError where a ``.keras`` archive is not to be read.

    Its parts are compared with what they claim, and the weights looked through by `check_h5`.

    Raises:
        UserError: see there; or the archive holds no ``config.json`` or ``model.weights.h5``.
        zipfile.BadZipFile, OSError: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        for part in archive.infolist():
            _check_ratio(part.file_size, part.compress_size, f"{path}: {part.filename}")
            if part.filename.startswith("/") or ".." in Path(part.filename).parts:
                raise UserError(f"{path} is refused: {part.filename!r} leads out of the archive")
        claimed = sum(part.file_size for part in archive.infolist())
        check_memory(claimed, f"the contents that {path} claims", _REDUCE)
        missing = {"config.json", "model.weights.h5"} - set(archive.namelist())
        if missing:
            raise zipfile.BadZipFile(f"no {min(missing)} in it")
        with h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights:
            check_h5(weights, path)
