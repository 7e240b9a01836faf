"""By what a stored network is recognised."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from .encoders import ENCODER_FILE
from .stored import RUN_FILES

_OF_FOLDERS = (ENCODER_FILE, RUN_FILES[0], "saved_model.pb", "variables/variables.*")
_DIGITS = 16


def fingerprints(paths: Mapping[str, str | None]) -> dict[str, str]:
    """The `fingerprint` of each path at which there is a file or a folder, by its name: others are
    names of networks."""
    return {
        name: fingerprint(path) for name, path in paths.items()
        if path and (Path(path).is_file() or Path(path).is_dir())
    }


def fingerprint(path: str | os.PathLike) -> str:
    """The first 16 hexadecimal digits of the SHA-256 sum of the network stored at `path`.

    Args:
        path: a file, a run folder or the folder of a SavedModel.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = sorted(file for pattern in _OF_FOLDERS for file in path.glob(pattern))
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:_DIGITS]
