"""Files that somebody else made are opened only where they are files.

A named pipe would block whoever opens it, and a device may never end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MOST_BYTES = 2**30
"""Of one file that is read as a whole."""

_NOT_FILES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular(path: str | Path, mode: int | None = None) -> None:
    """Raise OSError, with its reason as `strerror`, unless `path` is a regular file.

    A named pipe would block whoever opens it, a device may never end.

    Args:
        path: of the file, links are followed.
        mode: its `st_mode`, where it is known already.
    """
    mode = os.stat(path).st_mode if mode is None else mode
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _NOT_FILES if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))


def open_regular(path: str | Path) -> int:
    """A file descriptor that reads the regular file `path`. Raises OSError like `check_regular`."""
    check_regular(path)
    # Not to wait for a pipe that takes the file's place after the check.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        check_regular(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The content of the regular file `path`. Raises OSError, also for more than `most` bytes."""
    with open(open_regular(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"has more than {most:,} bytes", str(path))
        return file.read(most)
