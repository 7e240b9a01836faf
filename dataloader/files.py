"""Open, list and read files of unknown origin safely."""

from __future__ import annotations

import codecs
import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry import UserError

MOST_BYTES = 2**30
"""The largest file to read as a whole."""

_NOT_FILES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_BYTE_ORDER_MARKS = (  # UTF-32 before UTF-16: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def printable(path: str | Path) -> str:
    """`path` for a one-line message: control characters and invalid UTF-8 are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        each.encode("unicode_escape").decode() if unicodedata.category(each) == "Cc" else each
        for each in text
    )


def check_regular(path: str | Path, mode: int | None = None) -> None:
    """Raise OSError, with the reason in `strerror`, unless `path` is a regular file.

    Opening a named pipe would block, and a device may never end.

    Args:
        path: the file; links are followed.
        mode: its `st_mode`, if already known.
    """
    mode = os.stat(path).st_mode if mode is None else mode
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _NOT_FILES if is_kind(mode)), "something else")
        raise OSError(errno.EINVAL, f"is {kind}, not a file", str(path))


def open_regular(path: str | Path) -> int:
    """Open the regular file `path` for reading and return its file descriptor.

    Raises:
        OSError: see `check_regular`.
    """
    check_regular(path)
    # Non-blocking, in case a pipe replaces the file after the check.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        check_regular(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The contents of the regular file `path`.

    Raises:
        OSError: it cannot be read, or has more than `most` bytes.
    """
    with open(open_regular(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"has more than {most:,} bytes", str(path))
        return file.read(most)


def decode_text(contents: bytes, encoding: str = "utf-8") -> str:
    """Decode text in the encoding of its byte order mark, or else in `encoding`.

    Raises:
        UnicodeDecodeError: the bytes are not text in this encoding.
        LookupError: the encoding is unknown.
    """
    for mark, marked in _BYTE_ORDER_MARKS:
        if contents.startswith(mark):
            return contents[len(mark):].decode(marked)
    return contents.decode(encoding)


def read_lines(path: Path) -> list[str]:
    """The non-empty lines of a text file, without surrounding blanks.

    Raises:
        UserError: the file cannot be read, is not Unicode text or has control characters.
    """
    try:
        text = decode_text(read_bytes(path))
    except OSError as error:
        raise UserError(f"{printable(path)}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{printable(path)} is not {error.encoding} text (byte {error.start}): save it as UTF-8"
        ) from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        if any(unicodedata.category(each) == "Cc" for each in line.replace("\t", " ")):
            raise UserError(
                f"{printable(path)} has control characters ({printable(line)[:40]!r}): save it as "
                "UTF-8 text with one name per line"
            )
    return lines


@dataclass(frozen=True)
class Listing:
    """The contents of a folder, at any depth.

    Attributes:
        files: paths of regular files, relative to the folder, sorted by their parts.
        others: paths of everything that is neither file nor folder (pipes, broken links).
        folders: paths of the folder itself and of all folders below it.
    """

    files: list[str]
    others: list[str]
    folders: list[str]


def list_files(folder: str | Path) -> Listing:
    """List a folder at any depth. Hidden files and folders are skipped; links are followed.

    Raises:
        OSError: a folder cannot be read, or a link leads to a folder that contains it.
    """
    top = os.fspath(folder)
    files, others, folders, left = [], [], [], [""]
    while left:
        inner = left.pop()
        path = os.path.join(top, inner) if inner else top
        folders.append(path)
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                relative = f"{inner}/{entry.name}" if inner else entry.name
                if not entry.is_dir():
                    (files if entry.is_file() else others).append(relative)
                    continue
                if entry.is_symlink():
                    _check_no_loop(entry.path)
                left.append(relative)
    return Listing(sorted(files, key=lambda file: file.split("/")), sorted(others), folders)


def _check_no_loop(link: str) -> None:
    target = os.path.realpath(link)
    holder = os.path.realpath(os.path.dirname(link))
    if os.path.commonpath([target, holder]) == target:
        raise OSError(errno.ELOOP, "links to a folder that contains it", link)


def subfolders(folder: Path) -> Iterator[str]:
    """The sorted names of the folders in `folder`, without hidden ones. Raises OSError."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    yield from sorted(names)
