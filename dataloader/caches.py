"""What was found out about large data sets, kept in the user's cache folder for the next start."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from regular_files import read_bytes


def cache_file(kind: str, place: str | Path, ending: str = ".json") -> Path:
    """The file in which to keep what is known of the data at `place`.

    It lies in ``$XDG_CACHE_HOME`` or ``~/.cache``, never among the data. Without a home nothing is
    kept.

    Args:
        kind: what is kept, for the file's name.
        place: a path, or a text that begins with one.
        ending: of the file's name.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(caches):  # nobody's home: a place where nothing can be kept
        caches = os.devnull
    name = hashlib.sha256(os.fsencode(os.path.realpath(place))).hexdigest()
    return Path(caches) / "sskd-tte" / f"{kind}-{name}{ending}"


def read_cache(file: Path) -> Any:
    """What `write_cache` kept; None where there is nothing or the file is damaged."""
    try:
        return json.loads(read_bytes(file))
    except (OSError, ValueError):
        return None


def write_cache(file: Path, content: Any) -> bool:
    """Keep `content`, which JSON can express, as by `write_bytes`."""
    return write_bytes(file, json.dumps(content).encode())


def write_bytes(file: Path, content: bytes) -> bool:
    """Keep `content`. Where it cannot be written nothing is kept, and False is returned.

    Several processes may write at once: the file is complete at every moment.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as unfinished:
            written = Path(unfinished) / file.name
            written.write_bytes(content)
            os.replace(written, file)
    except OSError:  # no place, or none that can be written to: the next start finds out again
        return False
    return True
