"""Named arrays with a checksum in one ``.npz`` file; every dtype survives exactly.

``numpy.load`` reads these files too, except that it gives dtypes that are not NumPy's own (bfloat16
and the like) as unsigned integers of the same width.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401  (makes NumPy know "bfloat16" and its like by name)
import numpy as np

from experiment.run.folder import replacing
from regular_files import open_regular

_DIGEST = 64  # hexadecimal digits of a SHA-256 sum: the last bytes of the archive's comment
_ABOUT = "about.json"
_CHUNK = 1 << 20


class DamagedFile(ValueError):
    """A file whose content is not what was written."""


def _checksum(file: BinaryIO, length: int) -> bytes:
    """SHA-256 sum in hexadecimal of the first `length` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while length > 0:
        chunk = file.read(min(_CHUNK, length))
        if not chunk:
            break
        digest.update(chunk)
        length -= len(chunk)
    return digest.hexdigest().encode()


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # the same content, same bytes


def save(path: str | os.PathLike, about: Any, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``{group: {name: array}}``, entirely or not at all (see `folder.replacing`).

    Args:
        path: ends in ``.npz``.
        about: anything that JSON holds (NaN and infinities included), to be read with the arrays.
        groups: names of groups and arrays may be any text.
    """
    listed: dict[str, list[list[str]]] = {group: [] for group in groups}
    with replacing(path) as partial:
        with zipfile.ZipFile(partial, "w") as archive:
            for group, arrays in groups.items():
                for name, value in arrays.items():
                    array = np.asarray(value)
                    listed[group].append([name, array.dtype.name])
                    if array.dtype.kind == "V":
                        array = array.view(f"u{array.dtype.itemsize}")
                    member = _member(f"{group}/{name}.npy")
                    with archive.open(member, "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, array, allow_pickle=False)
            archive.writestr(_member(_ABOUT), json.dumps({"about": about, "groups": listed}))
            archive.comment = b"0" * _DIGEST
        with open(partial, "r+b") as file:
            length = os.path.getsize(partial) - _DIGEST
            digest = _checksum(file, length)
            file.seek(length)
            file.write(digest)


def load(path: str | os.PathLike) -> tuple[Any, dict[str, dict[str, np.ndarray]]]:
    """Read what `save` wrote: ``(about, {group: {name: array}})``.

    Raises:
        DamagedFile: the file is truncated or changed, or is none.
        OSError: there is no such file, or it cannot be read.
    """
    try:
        descriptor = open_regular(path)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise DamagedFile(f"{Path(path).name} {error.strerror}") from error
    with open(descriptor, "rb") as file:
        length = os.path.getsize(path) - _DIGEST
        digest = _checksum(file, length)
        if length < 0 or file.read(_DIGEST) != digest:
            raise DamagedFile(f"{Path(path).name} is damaged (its checksum does not fit)")
        with zipfile.ZipFile(file) as archive:
            content = json.loads(archive.read(_ABOUT))
            groups: dict[str, dict[str, np.ndarray]] = {}
            for group, listed in content["groups"].items():
                groups[group] = {}
                for name, dtype in listed:
                    with archive.open(f"{group}/{name}.npy") as member:
                        array = np.lib.format.read_array(member, allow_pickle=False)
                    groups[group][name] = array.view(np.dtype(dtype))
    return content["about"], groups
