"""Files, disk, memory and operations of TensorFlow that fail: in one line for people, with the
traceback in a file."""

from __future__ import annotations

import errno
import os
import tempfile
import textwrap
import traceback
from pathlib import Path

from registry import UserError

TRACEBACK = "error.txt"
_LONGEST = 400  # characters; TensorFlow tells the whole state of its memory
_FULL = "no space left on device"


def describe(error: BaseException) -> str | None:
    """One line about a failure of files, disk, memory or TensorFlow; None: `error` is of another
    kind."""
    if isinstance(error, (UserError, BrokenPipeError)):  # of a reader who has seen enough
        return None
    text = textwrap.shorten(str(error), _LONGEST, placeholder=" ...")
    # Errors of TensorFlow and h5py are of classes of their own.
    if _FULL in text.lower() or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        place = getattr(error, "filename", None)
        return f"the disk is full{f' ({place})' if place else ''}: {text}; free some space"
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        size = text or "no size known"
        return f"out of memory: {size}; use a smaller batch, smaller images or a smaller network"
    if isinstance(error, OSError):
        return text or type(error).__name__
    if any(kind.__name__ == "OpError" for kind in type(error).__mro__):
        return f"TensorFlow failed ({type(error).__name__}): {text}"
    return None


def write_traceback(error: BaseException, folder: str | os.PathLike | None = None) -> str:
    """Write the traceback of `error` to ``error.txt``.

    Args:
        error: the error.
        folder: where to write; None: a new temporary folder.

    Returns:
        The file's path, or why there is none.
    """
    text = "".join(traceback.format_exception(error))
    try:
        path = Path(folder or tempfile.mkdtemp(prefix="failure-"), TRACEBACK)
        path.write_text(text, encoding="utf-8")
    except OSError as unwritable:
        return f"not written ({unwritable.strerror or unwritable})"
    return str(path)
