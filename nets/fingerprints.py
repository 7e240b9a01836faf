"""By what a stored network is recognised."""

from __future__ import annotations

import functools
import hashlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from .class_names import MEMBER as CLASS_NAMES
from .encoders import ENCODER_FILE
from .stored import RUN_FILES

_OF_FOLDERS = (ENCODER_FILE, RUN_FILES[0], "saved_model.pb", "variables/variables.*")
_NOT_OF_NETWORK = ("metadata.json", CLASS_NAMES)  # of a .keras file: when it was saved, for one
_DIGITS = 16


def fingerprints(paths: Mapping[str, str | None]) -> dict[str, str]:
    """The `fingerprint` of each path at which there is a file or a folder, by its name: others are
    names of networks."""
    return {
        name: fingerprint(path) for name, path in paths.items()
        if path and (Path(path).is_file() or Path(path).is_dir())
    }


def fingerprint(path: str | os.PathLike) -> str:
    """The first 16 hexadecimal digits of a SHA-256 sum of the network stored at `path`. The same
    network has the same when it is saved again, or gets names of classes.

    Args:
        path: a file, a run folder, the folder of a SavedModel, or another folder, all of which
            counts.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(file for pattern in _OF_FOLDERS for file in path.glob(pattern))
        files = files or sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(_digest(file, stat.st_mtime_ns, stat.st_size))
    return digest.hexdigest()[:_DIGITS]


@functools.lru_cache
def _digest(file: Path, changed: int, size: int) -> bytes:
    """Of a file that was changed at a time, in ns, and has so many bytes."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [each for each in archive.infolist() if each.filename not in _NOT_OF_NETWORK]
        text = repr(sorted((each.filename, each.CRC, each.file_size) for each in members))
        return hashlib.sha256(text.encode()).digest()
    except zipfile.BadZipFile:  # of another format, or damaged
        with open(file, "rb") as content:
            return hashlib.file_digest(content, "sha256").digest()
