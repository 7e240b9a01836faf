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
_OF_RUNS = "settings.json"  # what every run folder has, from the beginning of the run
_NOT_OF_NETWORK = ("metadata.json", CLASS_NAMES)  # of a .keras file: when it was saved, for one
_DIGITS = 16


def fingerprints(paths: Mapping[str, str | None]) -> dict[str, str]:
    """The `fingerprint` of each path at which there is a network, by its name. Others are names of
    networks, or folders of runs that have not written their network yet."""
    return {
        name: fingerprint(path) for name, path in paths.items()
        if path and (Path(path).is_file() or _is_folder_of_network(Path(path)))
    }


def _is_folder_of_network(path: Path) -> bool:
    """Whether `path` is a folder, and not of a run that has not written its network yet, whose
    checkpoints come and go."""
    return path.is_dir() and (bool(_network_files(path)) or not (path / _OF_RUNS).exists())


def _network_files(folder: Path) -> list[Path]:
    """The files of a folder that are known to make up a network."""
    return sorted(file for pattern in _OF_FOLDERS for file in folder.glob(pattern))


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
        files = _network_files(path) or sorted(file for file in path.rglob("*") if file.is_file())
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
